#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "examples/data/input_format.hpp"

namespace data {

using Tensors = std::vector<torch::Tensor>;

/// Samples in memory, preprocessed as a model wants them.
struct Set {
  Tensors inputs;        ///< one tensor for each input of the model, samples along the first axis
  torch::Tensor labels;  ///< `[N]` int64 classes; for a folder with masks `[N, H, W]` int64, 1 inside an object

  [[nodiscard]] int64_t size() const { return labels.size(0); }
  /// Inputs of up to `batch` samples each, in order, without the labels.
  [[nodiscard]] std::vector<Tensors> batches(int64_t batch) const;
};

/// Which samples to take and what files to take along.
struct LoadOptions {
  int64_t offset = 0;
  int64_t limit = std::numeric_limits<int64_t>::max();
  /// WordPiece vocabulary of a tsv file; where empty, `vocab.txt` is looked for beside the tsv and in the folders next
  /// to it.
  std::string vocabulary = {};
  /// Width of the token matrix; 0 is the longest sentence taken. Longer sentences are cut.
  int64_t tokens = 0;
};

/// Reads a data set; the path says which format it has:
///
/// - `*.bin` CIFAR-10 binary records, `*.pack` CIFAR-10 as JPEGs, `*.csv` handwritten digits,
/// `*-images-idx3-ubyte[.gz]`
///   MNIST and its kin (labels beside them)
/// - a folder with `labels.csv` and `images/`: classes; with `images/` and `masks/`: segmentation
/// - `*.tsv` sentence TAB label
///
/// Throws `pare.data.102` for what cannot be opened, `103` for a format that is unknown or not what the model takes,
/// `104` for malformed content (with line or record), `105` for a picture that cannot be decoded or is too small, `106`
/// when no sample is left, `107` without a vocabulary.
Set load(const std::string& path, const InputFormat& format, const LoadOptions& options = {});

/// The first output of `forward` over the whole set, batch after batch, without gradients.
torch::Tensor outputs(const std::function<Tensors(const Tensors&)>& forward, const Set& set, int64_t batch);

/// How many of `logits` `[N, classes]` are largest at the label, in percent.
double top1_percent(const torch::Tensor& logits, const torch::Tensor& labels);

}  // namespace data
