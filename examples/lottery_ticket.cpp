// The lottery ticket (Frankle and Carbin, 2019) as a composition: train, keep the largest weights, rewind them to where
// they started, train again. No pass of its own: masks, and a training loop that knows nothing of them.
//
//   build/examples/lottery_ticket $PARE_DATA/digits
#include <fmt/format.h>
#include <torch/torch.h>

#include <exception>

#include "examples/data/dataset.hpp"
#include "pare/prune/masks.hpp"
#include "pare/prune/sparse_training.hpp"

namespace {

namespace nn = torch::nn;

void train(nn::Sequential& net, torch::optim::Optimizer& optimizer, const data::Set& set) {
  torch::manual_seed(1);
  for (int epoch = 0; epoch < 30; ++epoch) {
    const auto order = torch::randperm(set.size());
    for (std::int64_t first = 0; first + 32 <= set.size(); first += 32) {
      const auto index = order.narrow(0, first, 32);
      optimizer.zero_grad();
      const auto logits = net->forward(set.inputs[0].index_select(0, index).flatten(1));
      torch::cross_entropy_loss(logits, set.labels.index_select(0, index)).backward();
      optimizer.step();
    }
  }
}

double accuracy(nn::Sequential& net, const data::Set& set) {
  const torch::NoGradGuard no_grad;
  return data::top1_percent(net->forward(set.inputs[0].flatten(1)), set.labels);
}

nn::Sequential make_net(std::uint64_t seed) {
  torch::manual_seed(seed);
  return nn::Sequential(nn::Linear(64, 64), nn::ReLU(), nn::Linear(64, 10));
}

// A fresh net from this seed, trained with the masks given.
double train_masked(std::uint64_t seed, const pare::Masks& masks, const data::Set& training, const data::Set& test) {
  auto net = make_net(seed);
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(2e-3));
  const pare::SparseTraining sparse{*net, masks, optimizer};
  train(net, optimizer, training);
  return accuracy(net, test);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    at::set_num_threads(1);  // so small a net is slower on two
    if (argc != 2) throw std::runtime_error("usage: lottery_ticket FOLDER (digits)");
    auto format = data::InputFormat::image(8, {0.5F, 0.5F, 0.5F}, {0.5F, 0.5F, 0.5F});
    format.channels = 1;
    const std::string folder = argv[1];
    const auto training = data::load(folder + "/digits_train.csv", format),
               test = data::load(folder + "/digits_test.csv", format);

    constexpr std::uint64_t kTicket = 7, kOther = 8;
    auto net = make_net(kTicket);
    torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(2e-3));
    train(net, optimizer, training);
    fmt::print("dense                       {:5.1f} %\n", accuracy(net, test));

    // The largest tenth of the trained weights.
    pare::Masks all;
    for (const auto& [path, weight] : pare::Masks::named_parameters(*net))
      if (weight.dim() == 2) all.set(path, torch::ones_like(weight, torch::kBool));
    pare::Masks masks;
    {
      pare::SparseTraining sparse{*net, all, optimizer};
      sparse.prune({0.9});
      masks = sparse.masks();
    }
    fmt::print("90 % pruned, not trained    {:5.1f} %\n", accuracy(net, test));
    fmt::print("the ticket, rewound         {:5.1f} %\n", train_masked(kTicket, masks, training, test));
    fmt::print("the same masks, other start {:5.1f} %\n", train_masked(kOther, masks, training, test));
    return 0;
  } catch (const std::exception& error) {
    const std::string text(error.what());
    fmt::print(stderr, "lottery_ticket: {}\n", text.substr(0, text.find('\n')));
    return 1;
  }
}
