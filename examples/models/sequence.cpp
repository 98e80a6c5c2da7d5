#include "examples/models/bert.hpp"
#include "examples/models/data_dependent.hpp"
#include "examples/models/families.hpp"
#include "examples/models/llama.hpp"
#include "examples/models/recurrent.hpp"
#include "examples/models/transformer.hpp"
#include "examples/models/two_tower.hpp"

namespace models {
namespace {

torch::Tensor random_ids(int64_t batch, int64_t length, int64_t vocabulary) {
  return torch::randint(1, vocabulary, {batch, length}, torch::kLong);
}

template <class Holder>
Bundle ids_bundle(Holder net, int64_t length, int64_t vocabulary, std::string task) {
  return {.name = {},
          .task = std::move(task),
          .module = net.ptr(),
          .forward = [net](const Tensors& x) mutable -> Tensors { return {net->forward(x.at(0))}; },
          .example = [=](int64_t batch) -> Tensors { return {random_ids(batch, length, vocabulary)}; },
          .input = {}};
}

// Sentences of different lengths: the first is full, each further one ends a little earlier.
template <class Holder>
Bundle masked_bundle(Holder net, int64_t length, std::string task) {
  return {.name = {},
          .task = std::move(task),
          .module = net.ptr(),
          .forward = [net](const Tensors& x) mutable -> Tensors { return {net->forward(x.at(0), x.at(1))}; },
          .example = [=](int64_t batch) -> Tensors {
            auto ends = (length - 5 * torch::arange(batch)).clamp_min(length / 4).unsqueeze(1);
            auto mask = (torch::arange(length).unsqueeze(0) < ends).to(torch::kLong);
            return {random_ids(batch, length, BertOptions{}.vocabulary) * mask, mask};
          },
          .input = {.kind = data::InputFormat::Kind::kTokens, .tokens = 127}};
}

Bundle two_tower() {
  TwoTower net;
  return {.name = {},
          .task = "similarity",
          .module = net.ptr(),
          .forward = [net](const Tensors& x) mutable -> Tensors { return {net->forward(x.at(0), x.at(1))}; },
          .example = [](int64_t batch) -> Tensors {
            return {torch::randn({batch, 3, 64, 64}), random_ids(batch, 24, 1000)};
          },
          .input = {}};
}

Bundle data_dependent() {
  DataDependent net;
  return {.name = {},
          .task = "classification",
          .module = net.ptr(),
          .forward = [net](const Tensors& x) mutable -> Tensors { return {net->forward(x.at(0))}; },
          .example = [](int64_t batch) -> Tensors {
            return {torch::randn({batch, 16})};
          },
          .input = {}};
}

}  // namespace

void add_sequence(Factories& all) {
  all["lstm"] = [] { return ids_bundle(LstmClassifier(), 32, 1000, "classification"); };
  all["gru"] = [] { return ids_bundle(GruClassifier(), 32, 1000, "classification"); };
  all["transformer"] = [] { return ids_bundle(TransformerClassifier(), 48, 1000, "classification"); };
  all["llama"] = [] {
    auto bundle = ids_bundle(Llama(), 64, LlamaOptions{}.vocabulary, "language");
    bundle.load.allow_missing = {"freqs_(cos|sin)"};  // computed from the positions, not learned
    return bundle;
  };
  all["bert6x384"] = [] { return masked_bundle(Bert(), 128, "features"); };
  all["minilm_sst2"] = [] { return masked_bundle(SentenceClassifier(), 128, "classification"); };
  all["two_tower"] = two_tower;
  all["data_dependent"] = data_dependent;
}

}  // namespace models
