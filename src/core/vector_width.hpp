#pragma once

// Before a function with an inner loop: compiled for each generation of vector registers, and the loader picks.
// (AddressSanitizer's start-up comes too late for that.)
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define PARE_EACH_VECTOR_WIDTH [[gnu::target_clones("arch=skylake-avx512", "avx2", "default")]]
#else
#define PARE_EACH_VECTOR_WIDTH
#endif
