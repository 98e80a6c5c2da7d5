#include "examples/zoo/baseline.hpp"

#include <torch/torch.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace zoo {

namespace {

torch::Tensor channels_last(const torch::Tensor& tensor) {
  return tensor.dim() == 4 ? tensor.contiguous(torch::MemoryFormat::ChannelsLast) : tensor;
}

void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kGiB = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kGiB);
  mallopt(M_TRIM_THRESHOLD, kGiB);
  mallopt(M_TOP_PAD, kGiB / 16);
#endif
}

}  // namespace

void release_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

std::vector<pare::Latency> time_against_tuned_eager(models::Bundle& bundle, const models::Tensors& example,
                                                    const std::function<void()>& compiled, double seconds) {
  keep_freed_memory();
  for (auto& parameter : bundle.module->parameters()) parameter.set_data(channels_last(parameter));
  models::Tensors inputs;
  for (const auto& input : example) inputs.push_back(channels_last(input));
  return pare::measure_latency({[&] { static_cast<void>(bundle.forward(inputs)); }, compiled}, seconds);
}

}  // namespace zoo
