// Few bits, trained: a small residual network learns Fashion-MNIST with LibTorch, then trains on with weights and
// activations of 4 bits, and with weights of 2. First and last layer keep 8 bits, as is usual. Prints top-1 on the test
// pictures for several seeds, beside what the same bits give without training.
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <map>
#include <numbers>

#include "examples/data/dataset.hpp"
#include "examples/program.hpp"
#include "pare/capture/capture.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantization_aware_training.hpp"

namespace {

namespace nn = torch::nn;
using namespace pare::literals;

struct BlockImpl : nn::Module {
  BlockImpl(int64_t in, int64_t out, int64_t stride) {
    const auto conv = [](int64_t from, int64_t to, int64_t kernel, int64_t step) {
      return nn::Conv2d(nn::Conv2dOptions(from, to, kernel).padding(kernel / 2).stride(step).bias(false));
    };
    conv1 = register_module("conv1", conv(in, out, 3, stride));
    norm1 = register_module("norm1", nn::BatchNorm2d(out));
    conv2 = register_module("conv2", conv(out, out, 3, 1));
    norm2 = register_module("norm2", nn::BatchNorm2d(out));
    if (stride != 1) shortcut = register_module("shortcut", conv(in, out, 1, stride));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = norm2(conv2(torch::relu(norm1(conv1(x)))));
    return torch::relu(y + (shortcut ? shortcut(x) : x));
  }
  nn::Conv2d conv1{nullptr}, conv2{nullptr}, shortcut{nullptr};
  nn::BatchNorm2d norm1{nullptr}, norm2{nullptr};
};
TORCH_MODULE(Block);

struct NetImpl : nn::Module {
  NetImpl() {
    stem = register_module("stem", nn::Conv2d(nn::Conv2dOptions(1, 16, 3).padding(1).bias(false)));
    norm = register_module("norm", nn::BatchNorm2d(16));
    block1 = register_module("block1", Block(16, 16, 1));
    block2 = register_module("block2", Block(16, 32, 2));
    block3 = register_module("block3", Block(32, 64, 2));
    fc = register_module("fc", nn::Linear(64, 10));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = block3(block2(block1(torch::relu(norm(stem(x))))));
    return fc(torch::adaptive_avg_pool2d(y, {1, 1}).flatten(1));
  }
  nn::Conv2d stem{nullptr};
  nn::BatchNorm2d norm{nullptr};
  Block block1{nullptr}, block2{nullptr}, block3{nullptr};
  nn::Linear fc{nullptr};
};
TORCH_MODULE(Net);

// Adam moves every number by about its rate at a step, whatever the gradient: scales are a hundredth of a weight's
// range.
constexpr double kRangeRate = 0.02;
constexpr double kFewBitsRate = 5e-4;  // the network has been trained: it is to stay near to where it is
constexpr int64_t kBatch = 64;

// Any forward, in the loop that LibTorch's tutorials write; the rate falls along a cosine.
template <class Forward>
void train(Forward&& forward, torch::optim::Optimizer& optimizer, const data::Set& set, int epochs, double rate) {
  const auto steps = set.size() / kBatch;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    const auto order = torch::randperm(set.size());
    for (int64_t step = 0; step < steps; ++step) {
      const double time = static_cast<double>(epoch * steps + step) / static_cast<double>(epochs * steps);
      double share = 1;
      for (auto& group : optimizer.param_groups()) {
        static_cast<torch::optim::AdamOptions&>(group.options())
            .lr(share * rate * 0.5 * (1 + std::cos(std::numbers::pi * time)));
        share *= kRangeRate;
      }
      const auto index = order.narrow(0, step * kBatch, kBatch);
      optimizer.zero_grad();
      nn::functional::cross_entropy(forward(set.inputs[0].index_select(0, index)), set.labels.index_select(0, index))
          .backward();
      optimizer.step();
    }
  }
}

double top1(const pare::Model& model, const data::Set& test) {
  return data::top1_percent(data::outputs([&](const data::Tensors& x) { return model.run(x); }, test, 500),
                            test.labels);
}

struct Sizes {
  int64_t samples = 20000, test = 10000;
  int epochs = 7, qat_epochs = 4, seeds = 3;
};

using Figures = std::map<std::string, std::vector<double>>;

void run_seed(int seed, const data::Set& learn, const data::Set& test, const Sizes& sizes, Figures& figures) {
  torch::manual_seed(seed);
  Net net;
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(2e-3));
  train([&](const torch::Tensor& x) { return net(x); }, optimizer, learn, sizes.epochs, 2e-3);
  net->eval();
  const auto model = pare::capture(net, learn.inputs[0].narrow(0, 0, 2));
  figures["0 float"].push_back(top1(model, test));
  const pare::Batches calibration{learn.inputs[0].narrow(0, 0, 256)};
  for (const auto weights : {4_bits, 2_bits}) {
    const std::vector<std::pair<std::string, pare::Bits>> ends{{"stem", 8_bits}, {"fc", 8_bits}};
    const pare::Quantizer quantizer{
        .weights = weights, .layer_weights = ends, .activations = 4_bits, .layer_activations = ends};
    const auto name = fmt::format("W{}A4", weights.count);
    figures[name + " untrained"].push_back(
        top1(pare::apply(quantizer, model, {.calibration = calibration}).model, test));
    // The second half trains what will be run: batch norms folded with the statistics that they have.
    const auto steps = sizes.qat_epochs * (learn.size() / kBatch);
    pare::QuantizationAwareTraining qat{model, quantizer, calibration, {.freeze_batch_norm_after = steps / 2}};
    torch::optim::Adam tuned({torch::optim::OptimizerParamGroup(qat.model_parameters()),
                              torch::optim::OptimizerParamGroup(qat.range_parameters())},
                             torch::optim::AdamOptions(kFewBitsRate));
    qat.train();
    train(qat, tuned, learn, sizes.qat_epochs, kFewBitsRate);
    figures[name + " trained"].push_back(top1(qat.convert(), test));
  }
  // The float network, trained on as long: what the further epochs alone are worth.
  net->train();
  torch::optim::Adam further(net->parameters(), torch::optim::AdamOptions(kFewBitsRate));
  train([&](const torch::Tensor& x) { return net(x); }, further, learn, sizes.qat_epochs, kFewBitsRate);
  net->eval();
  figures["1 float, trained on"].push_back(top1(pare::capture(net, learn.inputs[0].narrow(0, 0, 2)), test));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Trains a residual network on Fashion-MNIST, then with 4 and 2 bits."};
  std::string folder;
  Sizes sizes;
  app.add_option("--data", folder, "folder with Fashion-MNIST's four files")->required();
  app.add_option("--samples", sizes.samples, "pictures to learn from")->check(CLI::Range(256, 60000));
  app.add_option("--test", sizes.test, "pictures to judge by")->check(CLI::Range(1, 10000));
  app.add_option("--epochs", sizes.epochs, "of the float network")->check(CLI::Range(1, 1000));
  app.add_option("--qat-epochs", sizes.qat_epochs, "with few bits")->check(CLI::Range(1, 1000));
  app.add_option("--seeds", sizes.seeds, "runs")->check(CLI::Range(1, 100));
  return program::run("fashion_qat", app, 2, [&] {
    app.parse(argc, argv);
    const data::InputFormat format{
        .kind = data::InputFormat::Kind::kImage, .channels = 1, .size = 28, .mean = {0.286F}, .divisor = {0.353F}};
    data::LoadOptions learn_options, test_options;
    learn_options.limit = sizes.samples;
    test_options.limit = sizes.test;
    const auto learn = data::load(folder + "/train-images-idx3-ubyte.gz", format, learn_options);
    const auto test = data::load(folder + "/t10k-images-idx3-ubyte.gz", format, test_options);
    Figures figures;
    for (int seed = 0; seed < sizes.seeds; ++seed) run_seed(seed, learn, test, sizes, figures);
    for (const auto& [name, values] : figures) {
      const auto numbers = torch::tensor(values, torch::kDouble);
      fmt::print("{:<22} {:6.2f} +- {:.2f} %\n", name, numbers.mean().item<double>(),
                 values.size() > 1 ? numbers.std().item<double>() : 0.0);
    }
    return 0;
  });
}
