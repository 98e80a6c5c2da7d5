#pragma once

// Before a function with an inner loop: compiled for each generation of vector registers, and the loader picks: by what
// the processor can do, since a processor's name ("arch=skylake-avx512") fits no later one. (AddressSanitizer's
// start-up comes too late for that.)
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#if defined(__clang__) || __GNUC__ < 12
#define PARE_EACH_VECTOR_WIDTH [[gnu::target_clones("avx512f", "avx2", "default")]]
#else
#define PARE_EACH_VECTOR_WIDTH [[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]]
#endif
#else
#define PARE_EACH_VECTOR_WIDTH
#endif
