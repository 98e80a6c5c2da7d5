#pragma once

#include <cstdint>

#include "examples/data/dataset.hpp"
#include "pare/graph/model.hpp"

namespace zoo {

/// How a smaller model is trained after it was pruned.
struct FinetuneOptions {
  int epochs = 0;
  std::int64_t batch = 64;
  double rate = 0.003;  ///< after the first epoch, over which it rises; falls along a cosine to zero
  double momentum = 0.9;
  double weight_decay = 1e-4;
  double temperature = 4.0;       ///< at which student and teacher are compared
  double teacher_share = 0.9;     ///< of the loss; the rest is cross-entropy with the labels
  double largest_gradient = 1.0;  ///< norm over all parameters that a step is made with at most
  double hidden_share = 20.0;  ///< weight of the difference from the teacher before the classifier, where channels last
  double mixed = 0.0;  ///< share of the batches in which pictures are blended with others, for the teacher to judge
  bool batch_statistics = false;  ///< batch norms use the batch's statistics; otherwise their running ones stay
  std::uint64_t seed = 0;
};

/// Trains `student` with the labels of `train` and the answers of `teacher` (Hinton et al., 2015): SGD with momentum,
/// pictures flipped and, small ones, shifted by up to an eighth. Zeros that the student was pruned to stay zero.
/// The student gets tensors of its own first; both are left in evaluation mode.
/// @return the mean loss of the last epoch
double finetune(pare::Model& student, pare::Model teacher, const data::Set& train, const FinetuneOptions& options);

}  // namespace zoo
