#pragma once

#include <cstdint>

#include "examples/data/dataset.hpp"
#include "pare/distill/training_data.hpp"
#include "pare/graph/model.hpp"

namespace zoo {

/// How a smaller model is trained after it was pruned.
struct FinetuneOptions {
  int epochs = 0;
  std::int64_t batch = 32;
  double rate = 0.001;            ///< of AdamW, after the first tenth; falls along a cosine to zero
  double largest_gradient = 1.0;  ///< norm over all parameters that a step is made with at most
  double temperature = 4.0;       ///< at which student and teacher are compared
  double teacher_share = 0.9;     ///< of the loss on the outputs; the rest is cross-entropy with the labels
  bool mixed = true;              ///< pictures are mixed in pairs, for which only the teacher has answers: no labels
  double hidden_share = 5.0;      ///< weight of the difference from the teacher's residual sums
  bool batch_statistics =
      true;  ///< batch norms learn from batches; otherwise their statistics stay as pruning left them
  std::uint64_t seed = 0;
};

/// Flips half of the pictures, and moves small ones by up to an eighth of their side; what comes in is the colour that
/// normalising makes zero.
torch::Tensor augmented(const torch::Tensor& images);

/// Samples and their labels, in another order each epoch.
pare::TrainingData shuffled(const data::Set& set, std::int64_t batch, std::uint64_t seed = 0);

/// Cross-entropy with the labels and, with the weight `teacher_share`, the softened answers of a teacher.
torch::Tensor distillation_loss(const torch::Tensor& student, const torch::Tensor& teacher, const torch::Tensor& labels,
                                double temperature, double teacher_share);

/// Trains `student` (`pare::fit`) with the labels of `train`, the answers of `teacher` (Hinton et al., 2015) and, where
/// they add residuals, those sums: the last one, which the classifier reads, weighs as much as all others (Wang et al.,
/// "Compressing Models with Few Samples: Mimicking then Replacing", 2022). Pictures are flipped, small ones shifted by
/// up to an eighth, and each is mixed with another (Beyer et al., "Knowledge distillation: A good teacher is patient
/// and consistent", 2022). Zeros that the student was pruned to stay zero. The student gets tensors of its own first;
/// both are left in evaluation mode.
/// @return the mean loss of the last epoch
double finetune(pare::Model& student, pare::Model teacher, const data::Set& train, const FinetuneOptions& options);

}  // namespace zoo
