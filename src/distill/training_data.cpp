#include "pare/distill/training_data.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

PARE_NAMESPACE_BEGIN

TrainingData TrainingData::shuffled(std::vector<at::Tensor> tensors, std::int64_t batch_size, std::uint64_t seed) {
  const auto rows = tensors.empty() ? 0 : tensors.front().size(0);
  for (const auto& tensor : tensors)
    if (tensor.size(0) != rows)
      fail("pare.distill.121", "", "tensors of {} and {} rows: every row is one sample", rows, tensor.size(0));
  if (batch_size < 1 || rows < batch_size) fail("pare.distill.121", "", "batches of {} from {} rows", batch_size, rows);
  TrainingData data([tensors, batch_size, seed, rows](std::int64_t epoch) {
    auto generator = at::detail::createCPUGenerator(seed * 0x9E3779B97F4A7C15ULL + static_cast<std::uint64_t>(epoch));
    const auto order = at::randperm(rows, generator, at::TensorOptions().dtype(at::kLong));
    return Batches(
        [tensors, batch_size, order](std::size_t position) -> std::optional<Batch> {
          const auto index = order.narrow(0, static_cast<std::int64_t>(position) * batch_size, batch_size);
          Batch batch;
          for (const auto& tensor : tensors) batch.push_back(tensor.index_select(0, index));
          return batch;
        },
        static_cast<std::size_t>(rows / batch_size));
  });
  data.samples_ =
      Batches([tensors = std::move(tensors), batch_size, rows](std::size_t position) -> std::optional<Batch> {
        const auto begin = static_cast<std::int64_t>(position) * batch_size;
        if (begin >= rows) return std::nullopt;
        Batch batch;
        for (const auto& tensor : tensors) batch.push_back(tensor.narrow(0, begin, std::min(batch_size, rows - begin)));
        return batch;
      });
  return data;
}

PARE_NAMESPACE_END
