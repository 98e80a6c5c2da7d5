/* A Cortex-M without a C library: vectors, and semihosting to say what the network computed. */
#include <stddef.h>
#include <stdint.h>

#include "net.h"

extern const uint8_t samples[];
extern const int32_t sample_count;
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
  for (to = &data_begin, from = &data_load; to < &data_end;) *to++ = *from++;
  for (to = &bss_begin; to < &bss_end;) *to++ = 0;
  main();
  semihost(0x20, exit_block); /* SYS_EXIT_EXTENDED */
  for (;;) {
  }
}

int main(void) {
  static int32_t scores[NET_OUTPUT_SIZE];
  int32_t i;
  int k;
  for (i = 0; i < sample_count; ++i) {
    net_run(samples + (size_t)i * NET_INPUT_SIZE, scores);
    for (k = 0; k < NET_OUTPUT_SIZE; ++k) say(scores[k]);
  }
  return 0;
}
