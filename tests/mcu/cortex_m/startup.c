/* A Cortex-M without a C library: vectors, semihosting to say what the network computed, SysTick to count. */
#include <stddef.h>
#include <stdint.h>

#include "net.h"

extern const uint8_t samples[], samples_end[];
extern uint32_t stack_top, data_begin, data_end, data_load, bss_begin, bss_end;

void reset(void);
int main(void);

__attribute__((section(".vectors"), used)) static void *const vectors[] = {(void *)&stack_top, (void *)reset};

/* The compiler may call these. */
void *memcpy(void *to, const void *from, size_t count) {
  uint8_t *out = to;
  const uint8_t *in = from;
  while (count--) *out++ = *in++;
  return to;
}
void *memset(void *to, int value, size_t count) {
  uint8_t *out = to;
  while (count--) *out++ = (uint8_t)value;
  return to;
}

static int semihost(int operation, const void *argument) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static void say(int32_t number) {
  char text[16], *at = text + 15;
  uint32_t rest = number < 0 ? 0U - (uint32_t)number : (uint32_t)number;
  *at = 0;
  *--at = '\n';
  do *--at = (char)('0' + rest % 10);
  while (rest /= 10);
  if (number < 0) *--at = '-';
  semihost(0x04, at); /* SYS_WRITE0 */
}

void reset(void) {
  static const uint32_t exit_block[2] = {0x20026, 0}; /* ADP_Stopped_ApplicationExit */
  uint32_t *to, *from;
#if defined(__ARM_FEATURE_MVE)
  *(volatile uint32_t *)0xE000ED88 |= 0xF00000; /* CPACR: vectors on */
  __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
  for (to = &data_begin, from = &data_load; to < &data_end;) *to++ = *from++;
  for (to = &bss_begin; to < &bss_end;) *to++ = 0;
  main();
  semihost(0x20, exit_block); /* SYS_EXIT_EXTENDED */
  for (;;) {
  }
}

/* SysTick counts down at the board's clock. Under `-icount shift=0` an instruction is a nanosecond. */
#define SYST_CSR (*(volatile uint32_t *)0xE000E010)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018)
enum { kPaintedWords = 1024, kUnpaintedWords = 16 };
static const uint32_t kPaint = 0xA5A5A5A5U;

/* Marks the unused stack below a frame, but for what this call itself stands on; how much of the mark is gone tells how
   deep calls went. */
__attribute__((noinline)) static void paint(volatile uint32_t *frame) {
  volatile uint32_t *at;
  for (at = frame - kPaintedWords; at < frame - kUnpaintedWords; ++at) *at = kPaint;
}

__attribute__((noinline)) static uint32_t depth_below(const volatile uint32_t *frame) {
  const volatile uint32_t *at = frame - kPaintedWords;
  while (at < frame - kUnpaintedWords && *at == kPaint) ++at;
  return (uint32_t)(frame - at) * 4;
}

int main(void) {
  static int32_t scores[NET_OUTPUT_SIZE];
  const uint8_t *sample;
  uint32_t longest = 0, deepest = 0;
  int k;
  SYST_RVR = 0xFFFFFF;
  SYST_CVR = 0;
  SYST_CSR = 5; /* on, the processor's clock, no interrupt */
  for (sample = samples; sample < samples_end; sample += NET_INPUT_SIZE) {
    uint32_t *const frame = __builtin_frame_address(0);
    uint32_t before, ticks, depth;
    paint(frame);
    before = SYST_CVR;
    net_run(sample, scores);
    ticks = (before - SYST_CVR) & 0xFFFFFF;
    depth = depth_below(frame);
    if (ticks > longest) longest = ticks;
    if (depth > deepest) deepest = depth;
    for (k = 0; k < NET_OUTPUT_SIZE; ++k) say(scores[k]);
  }
  say((int32_t)((uint64_t)longest * TICK_PICOSECONDS / 1000));
  say((int32_t)deepest);
  return 0;
}
