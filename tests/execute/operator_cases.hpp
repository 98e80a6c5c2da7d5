#pragma once

#include <torch/torch.h>

#include <functional>
#include <string>
#include <tuple>
#include <vector>

namespace nn = torch::nn;
using Forward = std::function<torch::Tensor(const torch::Tensor&)>;

/// A module whose forward the test writes beside its layers.
struct Net : nn::Module {
  template <class Layer>
  Layer add(const std::string& name, Layer layer) {
    return register_module(name, layer);
  }
  torch::Tensor forward(const torch::Tensor& x) { return body(x); }
  Forward body;
};

/// Statistics and parameters that a batch norm might have learned.
template <class Norm>
void draw(Norm& norm) {
  norm->running_mean.normal_(), norm->running_var.uniform_(0.5, 2);
  if (norm->weight.defined()) norm->weight.normal_(), norm->bias.normal_();
}

struct Case {
  std::string name;
  std::vector<int64_t> sizes;  ///< of the input, less the batch
  std::function<Forward(Net&)> build;
};

// Two layers each: what the first stores as integers the second reads.
inline std::vector<Case> cases() {
  return {
      {"conv1d",
       {4, 33},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv1d(nn::Conv1dOptions(4, 12, 5).stride(2).padding(2)));
         auto b = net.add("b", nn::Conv1d(nn::Conv1dOptions(12, 6, 3).dilation(2)));
         return [=](const torch::Tensor& x) mutable { return b(torch::relu(a(x))); };
       }},
      {"conv2d, signed activations, padding",
       {3, 15, 13},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 10, 3).padding({1, 2})));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(10, 7, 3).padding(1).stride(2)));
         return [=](const torch::Tensor& x) mutable { return b(a(x)); };
       }},
      {"conv3d",
       {2, 7, 9, 8},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv3d(nn::Conv3dOptions(2, 8, 3).padding(1)));
         auto b = net.add("b", nn::Conv3d(nn::Conv3dOptions(8, 4, {1, 3, 3})));
         return [=](const torch::Tensor& x) mutable { return b(torch::relu(a(x))); };
       }},
      {"transposed convolution",
       {6, 9, 9},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(6, 8, 1)));
         auto b = net.add(
             "b", nn::ConvTranspose2d(nn::ConvTranspose2dOptions(8, 5, 3).stride(2).padding(1).output_padding(1)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(5, 3, 1)));
         return [=](const torch::Tensor& x) mutable { return c(torch::relu(b(torch::relu(a(x))))); };
       }},
      {"depthwise, grouped and pointwise",
       {8, 14, 14},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(8, 48, 1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(48, 48, 3).padding(1).groups(48)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(48, 32, 3).groups(4)));
         auto d = net.add("d", nn::Conv2d(nn::Conv2dOptions(32, 8, 1)));
         return [=](const torch::Tensor& x) mutable { return d(torch::relu(c(torch::relu6(b(torch::relu6(a(x))))))); };
       }},
      {"residual sums, relu behind signed grids, hardswish",
       {16, 10, 10},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(16, 16, 3).padding(1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(16, 16, 1)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(16, 16, 3).padding(1)));
         auto d = net.add("d", nn::Conv2d(nn::Conv2dOptions(16, 4, 1)));
         return [=](const torch::Tensor& x) mutable {
           auto y = a(x);
           auto z = b(y) + y;
           auto w = torch::relu(c(z) + z);
           return d(torch::hardswish(b(w)));
         };
       }},
      {"a sum with the convolution's own input, made outside oneDNN",
       {12, 9, 9},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(12, 12, 3).padding(1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(12, 12, 3).padding(1)));
         return [=](const torch::Tensor& x) mutable {
           auto y = torch::sin(a(x));
           return torch::relu(b(y) + y);
         };
       }},
      {"hardtanh around an offset grid",
       {8, 6, 6},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(8, 8, 1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(8, 8, 1)));
         return [=](const torch::Tensor& x) mutable { return b(torch::hardtanh(a(x), -0.2, 0.5)); };
       }},
      {"linear over sequences",
       {11, 24},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Linear(24, 40));
         auto b = net.add("b", nn::Linear(nn::LinearOptions(40, 24).bias(false)));
         return [=](const torch::Tensor& x) mutable { return b(torch::gelu(a(x))) + x; };
       }},
      {"matrix products",
       {6, 20},
       [](Net& net) -> Forward {
         auto q = net.add("q", nn::Linear(20, 16));
         auto k = net.add("k", nn::Linear(20, 16));
         auto v = net.add("v", nn::Linear(20, 16));
         auto o = net.add("o", nn::Linear(16, 5));
         return [=](const torch::Tensor& x) mutable {
           auto weights = torch::softmax(torch::bmm(q(x), k(x).transpose(1, 2)) / 4.0, -1);
           return o(torch::matmul(weights, v(x)));
         };
       }},
      {"concatenation, pooling, global mean",
       {3, 18, 18},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(3, 8, 1)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(16, 300, 1)));
         auto d = net.add("d", nn::Linear(300, 7));
         return [=](const torch::Tensor& x) mutable {
           auto y = torch::cat({torch::relu(a(x)), torch::relu(b(x))}, 1);
           y = torch::avg_pool2d(torch::max_pool2d(y, 3, 2, 1), 2);
           return d(torch::adaptive_avg_pool2d(torch::relu(c(y)), {1, 1}).flatten(1));
         };
       }},
      {"functions of one number, and a norm without weights",
       {7, 24},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Linear(24, 24));
         auto b = net.add("b", nn::Linear(24, 6));
         auto norm = net.add("norm", nn::LayerNorm(nn::LayerNormOptions({24}).elementwise_affine(false)));
         return [=](const torch::Tensor& x) mutable {
           auto y = norm(a(x));
           y = torch::mish(y) + torch::softplus(y, 2) + torch::log_sigmoid(y) + torch::clamp_max(y, 0.5);
           y = torch::sqrt(torch::abs(y)) + torch::exp(-torch::square(y)) + torch::log(torch::abs(y) + 1);
           return b(y);
         };
       }},
      {"branches that training drops, and noise that it adds",
       {8, 9, 9},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(8, 8, 3).padding(1)));
         auto norm = net.add("norm", nn::BatchNorm2d(8));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(8, 8, 1)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(8, 8, 1)));
         return [=, &net](const torch::Tensor& x) mutable {
           auto y = norm(a(x));
           if (net.is_training()) y = y.div(0.8).mul_(torch::rand({y.size(0), 1, 1, 1}).add(0.8).floor_());
           y = torch::relu(b(y + x));
           if (net.is_training()) y = y + torch::randn_like(y);
           return c(y);
         };
       }},
      {"attention to a learned vector",
       {9, 24},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Linear(24, 16));
         auto b = net.add("b", nn::Linear(24, 5));
         const auto query = net.register_parameter("query", torch::randn({16}));
         return [=](const torch::Tensor& x) mutable {
           const auto weights = torch::softmax(torch::matmul(torch::tanh(a(x)), query), 1);
           return b(torch::bmm(weights.unsqueeze(1), x).squeeze(1));
         };
       }},
      {"four channels and one",
       {4, 9, 9},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(4, 6, 3)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(1, 6, 3)));
         return [=](const torch::Tensor& x) mutable { return a(x) + b(x.slice(1, 0, 1)); };
       }},
      {"a batch norm in front of its convolution, behind a concatenation",
       {5, 9, 9},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(5, 12, 3).padding(1)));
         auto norm = net.add("norm", nn::BatchNorm2d(17));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(17, 16, 1)));
         auto last = net.add("last", nn::BatchNorm2d(nn::BatchNorm2dOptions(16).affine(false)));
         auto c = net.add("c", nn::Conv2d(nn::Conv2dOptions(16, 4, 1)));
         draw(norm), draw(last);
         return [=](const torch::Tensor& x) mutable {
           auto y = torch::cat({torch::relu(a(x)), x}, 1);
           y = b(torch::relu(norm(y)));
           return c(torch::silu(last(torch::max_pool2d(y, 3, 2))));
         };
       }},
      {"batch norms of vectors, sequences and volumes",
       {6, 4, 3, 5},
       [](Net& net) -> Forward {
         auto volume = net.add("volume", nn::BatchNorm3d(6));
         auto sequence = net.add("sequence", nn::BatchNorm1d(6));
         auto vector = net.add("vector", nn::BatchNorm1d(60));
         auto a = net.add("a", nn::Linear(60, 9));
         auto b = net.add("b", nn::Linear(60, 9));
         draw(volume), draw(sequence), draw(vector);
         return [=](const torch::Tensor& x) mutable {
           const auto y = sequence(torch::relu(volume(x)).flatten(2));
           return a(vector(y.sum(1))) + b(torch::tanh(y.mean(1)));
         };
       }},
      {"windows that reach beyond the edge",
       {3, 14, 17},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)));
         auto b = net.add("b", nn::Conv2d(nn::Conv2dOptions(8, 4, 1)));
         const auto average = [](const torch::Tensor& x, int64_t padding, bool count) {
           return torch::avg_pool2d(x, 3, 2, padding, true, count);
         };
         return [=](const torch::Tensor& x) mutable {
           auto y = torch::max_pool2d(torch::relu(a(x)), 3, 2, 0, 1, true);
           y = average(y, 0, true) + average(y, 0, false) + average(y, 1, false).slice(2, 0, 3).slice(3, 0, 4);
           return b(torch::max_pool2d(y, 2, 2, 1, 1, true));
         };
       }},
      {"sums and products of slices, and broadcasts along any dim",
       {6, 4, 10},
       [](Net& net) -> Forward {
         auto a = net.add("a", nn::Linear(10, 16));
         auto b = net.add("b", nn::Linear(8, 5));
         const auto table = net.register_buffer("table", torch::randn({6, 1, 4}));
         const auto mask = net.register_buffer("mask", torch::randn({6, 4, 8}));
         return [=](const torch::Tensor& x) mutable {
           const auto y = a(x).view({-1, 6, 4, 8, 2});
           const auto left = y.select(-1, 0), right = y.select(-1, 1);
           auto z = left * right - (right * 0.5 + right) / (right.square() + 1);
           const auto even = z.slice(3, 0, 8, 2), odd = z.slice(3, 1, 8, 2);
           z = torch::stack({even * table - odd * table, torch::relu(even + odd)}, -1).flatten(3);
           return b(torch::relu(z + mask).permute({0, 2, 1, 3}) * 0.25);
         };
       }},
      {"an LSTM of two layers and directions, batch first",
       {7, 12},
       [](Net& net) -> Forward {
         auto lstm =
             net.add("lstm", nn::LSTM(nn::LSTMOptions(12, 16).num_layers(2).bidirectional(true).batch_first(true)));
         auto a = net.add("a", nn::Linear(32, 5));
         return [=](const torch::Tensor& x) mutable {
           const auto [y, state] = lstm(x);
           return a(y) + a(torch::cat({std::get<0>(state)[3], std::get<1>(state)[0]}, 1)).unsqueeze(1);
         };
       }},
      {"an LSTM without biases that starts somewhere, time first",
       {6, 9},
       [](Net& net) -> Forward {
         auto lstm = net.add("lstm", nn::LSTM(nn::LSTMOptions(9, 20).bias(false)));
         auto start = net.add("start", nn::Linear(9, 20));
         auto a = net.add("a", nn::Linear(20, 5));
         return [=](const torch::Tensor& x) mutable {
           const auto by_time = x.transpose(0, 1);
           const auto first = torch::tanh(start(by_time[0])).unsqueeze(0);
           return a(std::get<0>(lstm(by_time, std::make_tuple(first, first * 0.5)))).transpose(0, 1);
         };
       }},
      {"a GRU of two layers and directions",
       {5, 12},
       [](Net& net) -> Forward {
         auto gru = net.add("gru", nn::GRU(nn::GRUOptions(12, 24).num_layers(2).bidirectional(true).batch_first(true)));
         auto a = net.add("a", nn::Linear(48, 5));
         return [=](const torch::Tensor& x) mutable {
           const auto [y, state] = gru(x);
           return a(y) + a(torch::cat({state[0], state[3]}, 1)).unsqueeze(1);
         };
       }},
      {"a GRU without biases",
       {4, 8},
       [](Net& net) -> Forward {
         auto gru = net.add("gru", nn::GRU(nn::GRUOptions(8, 10).bias(false)));
         auto a = net.add("a", nn::Linear(10, 3));
         return [=](const torch::Tensor& x) mutable { return a(std::get<1>(gru(x.transpose(0, 1)))[0]); };
       }},
  };
}
