#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "pare/distill/training_data.hpp"
#include "pare/pipeline/head.hpp"

namespace nuclei {

/// Pictures and what is to be seen in them.
struct TaskSamples {
  torch::Tensor images;     ///< `[N, 1, 256, 256]`, normalised
  torch::Tensor centres;    ///< `[N, 1, 64, 64]`: 1 where the middle of a nucleus is, falling off around it
  torch::Tensor insides;    ///< `[N, 1, 256, 256]`, 0 or 1
  torch::Tensor distances;  ///< `[N, 1, 256, 256]`: from the edge inwards, up to 8 pixels, as a share of them

  [[nodiscard]] TaskSamples rows(std::int64_t first, std::int64_t count) const;
};

/// The part `train` or `test` of a folder laid out as dsb2018_nuclei.
TaskSamples load_tasks(const std::string& folder, const std::string& part);

/// Random pieces of the pictures with their targets behind, turned and flipped alike: another choice in every epoch,
/// the same whenever it is read again.
pare::TrainingData pieces_of(const TaskSamples& samples, std::int64_t side, std::int64_t batch, std::uint64_t seed);

/// The sum of the three tasks' losses. @param outputs of a TaskNet @param targets centres, insides, distances
torch::Tensor task_loss(const std::vector<torch::Tensor>& outputs, const std::vector<torch::Tensor>& targets);

/// Detection: F1 of the centres found, within a cell of four pixels. Segmentation: Dice. Distance: 1 less the summed
/// error over the summed distance. Of each picture, 0 to 1.
std::vector<pare::Head> task_heads(const TaskSamples& samples);

}  // namespace nuclei
