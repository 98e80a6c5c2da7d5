#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "pare/core/batches.hpp"

PARE_NAMESPACE_BEGIN

/// Batches to train on, epoch by epoch. The tensor of a batch behind the model's inputs holds its
/// labels; further ones are not read.
///
///     pare::TrainingData{batches}                                               // the same batches in every epoch
///     pare::TrainingData::shuffled({images, labels}, 64)                        // another order in every epoch
///     pare::TrainingData{[&](std::int64_t epoch) { return pare::Batches{…}; }}  // anything
///     pare::TrainingData::examples(*loader)                                     // LibTorch's: .data and .target
///
/// An interrupted training is resumed by reading an epoch again from its start, so an epoch must have the same batches
/// whenever it is read. What is drawn from LibTorch's random state while a batch is made (augmentation) is repeated
/// too.
class TrainingData {
 public:
  using Epochs = std::function<Batches(std::int64_t epoch)>;

  TrainingData() = default;
  TrainingData(Batches batches)  // NOLINT(google-explicit-constructor): batches are data
      : epochs_([batches](std::int64_t) { return batches; }), samples_(std::move(batches)) {}
  template <class Make>
  requires std::is_invocable_r_v<Batches, Make&, std::int64_t> TrainingData(
      Make make)  // NOLINT(google-explicit-constructor)
      : epochs_(std::move(make)) {}
  /// Rows of tensors of one length, in an order drawn from `seed` and the epoch; rows that fill no batch are left out.
  /// @throws Error `pare.distill.121` for tensors of different lengths, or fewer rows than a batch
  static TrainingData shuffled(std::vector<at::Tensor> tensors, std::int64_t batch_size, std::uint64_t seed = 0);
  /// A range of examples with `.data` and `.target`, which the caller keeps alive; `begin()` starts it afresh.
  template <class Range>
  static TrainingData examples(Range& range) {
    return Batches::over(range, [](const auto& example) { return Batch{example.data, example.target}; });
  }

  [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(epochs_); }
  [[nodiscard]] Batches epoch(std::int64_t number) const { return epochs_ ? epochs_(number) : Batches(); }
  /// Every sample there is, of whatever epoch; no batch where that is not known, as of a function.
  [[nodiscard]] const Batches& samples() const noexcept { return samples_; }

 private:
  Epochs epochs_;
  Batches samples_;
};

PARE_NAMESPACE_END
