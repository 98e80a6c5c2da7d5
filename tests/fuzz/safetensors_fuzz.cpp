// libFuzzer target: cmake -DCMAKE_CXX_COMPILER=clang++ -DPARE_FUZZ=ON, then
// build/tests/fuzz_safetensors tests/fuzz/corpus/safetensors
#include "tests/fuzz/safetensors_fuzz.hpp"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (!fuzz_safetensors(data, size)) std::abort();
  return 0;
}
