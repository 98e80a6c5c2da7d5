// libFuzzer target: cmake -DCMAKE_CXX_COMPILER=clang++ -DPARE_FUZZ=ON, then
// build/tests/fuzz_graph_text tests/fuzz/corpus/graph_text
#include "tests/fuzz/graph_text_fuzz.hpp"

#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (!fuzz_graph_text({reinterpret_cast<const char*>(data), size})) std::abort();
  return 0;
}
