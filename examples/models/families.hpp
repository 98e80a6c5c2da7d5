#pragma once

#include <map>
#include <string>
#include <utility>

#include "examples/models/registry.hpp"

// How the families enter the table of `make`; each function lives beside the models that it builds.
namespace models {

using Factories = std::map<std::string, Bundle (*)()>;

void add_convolutional(Factories& factories);
void add_compact(Factories& factories);
void add_sequence(Factories& factories);

/// A bundle of a module with one image in and one tensor out. Random inputs are noise over all pixel values.
template <class Holder>
Bundle image_bundle(Holder net, const data::InputFormat& input, std::string task = "classification") {
  return {.name = {},
          .task = std::move(task),
          .module = net.ptr(),
          .forward = [net](const Tensors& x) mutable -> Tensors { return {net->forward(x.at(0))}; },
          .example = [input](int64_t batch) -> Tensors {
            auto pixels = torch::randint(256, {batch, input.channels, input.size, input.size}, torch::kFloat);
            return {input.normalise(pixels)};
          },
          .input = input};
}

}  // namespace models
