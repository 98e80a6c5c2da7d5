// Forwards that capture refuses, each with the error that names what it was, and what is left of the module then.
#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "pare/capture/capture.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;
using torch::Tensor;

// A layer, and behind it what the test writes.
struct ForwardErrorNet : nn::Module {
  explicit ForwardErrorNet(std::function<Tensor(const Tensor&)> what) : body(std::move(what)) {
    fc = register_module("fc", nn::Linear(4, 4));
    fc->eval();
  }
  Tensor forward(const Tensor& x) {
    ++calls;
    return body(fc(x));
  }
  nn::Linear fc{nullptr};
  std::function<Tensor(const Tensor&)> body;
  int calls = 0;
};

struct ForwardErrorSlope : nn::Module {
  ForwardErrorSlope() { fc = register_module("fc", nn::Linear(4, 4)); }
  Tensor forward(const Tensor& x) { return torch::leaky_relu(fc(x), is_training() ? 0.2 : 0.1); }
  nn::Linear fc{nullptr};
};

// A second head for training, as Inception has it.
struct ForwardErrorOutputs : nn::Module {
  ForwardErrorOutputs() {
    fc = register_module("fc", nn::Linear(4, 4));
    aside = register_module("aside", nn::Linear(4, 2));
  }
  std::vector<Tensor> forward(const Tensor& x) {
    const auto y = fc(x);
    return is_training() ? std::vector<Tensor>{y, aside(y)} : std::vector<Tensor>{y};
  }
  nn::Linear fc{nullptr}, aside{nullptr};
};

struct ForwardError {
  std::string id, path, text;
};

template <class Net>
ForwardError forward_error(Net& net, const Tensor& example, const pare::CaptureOptions& options = {}) {
  try {
    static_cast<void>(pare::capture(net, example, options));
  } catch (const pare::Error& error) {
    return {error.id(), error.path(), error.what()};
  }
  return {"none", "", ""};
}

bool error_mentions(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

void check_evaluation_only(pare::Model& model, const std::string& why) {
  CHECK_FALSE(model.can_train());
  CHECK(std::ranges::any_of(model.notes(), [&](const std::string& note) {
    return error_mentions(note, "pare.capture.151") && error_mentions(note, why);
  }));
  try {
    model.train();
    FAIL("went into training mode");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.graph.105");
    CHECK(error_mentions(error.what(), why));
  }
  CHECK_FALSE(model.is_training());
}

}  // namespace

TEST_CASE("an example without a tensor is refused before the forward runs", "[capture]") {
  ForwardErrorNet net([](const Tensor& y) { return y; });
  CHECK(raises("pare.capture.101", [&] { static_cast<void>(pare::capture(net, Tensor())); }));
  CHECK(raises("pare.capture.101", [&] { static_cast<void>(pare::capture(net, Tensor(), {.fixed_sizes = true})); }));
  const auto flat = [&](const std::vector<Tensor>& in) { return std::vector<Tensor>{net.forward(in.at(0))}; };
  CHECK(raises("pare.capture.101", [&] { static_cast<void>(pare::capture_forward(net, flat, {})); }));
  CHECK(net.calls == 0);
}

TEST_CASE("a write that cannot be made a value is refused, and the operator and the module are named", "[capture]") {
  const torch::NoGradGuard no_grad;
  struct Write {
    const char *id, *op;
    std::function<Tensor(const Tensor&)> body;
  };
  const std::vector<Write> writes{
      {"pare.capture.111", "aten::_foreach_mul_",
       [](const Tensor& y) {
         const std::vector<Tensor> both{y.clone(), y + 1};
         at::_foreach_mul_(both, 2.0);
         return both[0] + both[1];
       }},
      {"pare.capture.111", "aten::max",
       [](const Tensor& y) {
         auto values = at::empty({y.size(0)});
         auto indices = at::empty({y.size(0)}, at::kLong);
         at::max_out(values, indices, y, 1);
         return values;
       }},
      {"pare.capture.112", "aten::set_",
       [](const Tensor& y) {
         auto z = torch::empty({0});
         z.set_(y);
         return z;
       }},
      {"pare.capture.112", "aten::resize_",
       [](const Tensor& y) {
         return y.clone().resize_({2, 2});
       }},
      {"pare.capture.113", "aten::unfold",
       [](const Tensor& y) {
         auto z = y.clone();
         z.unfold(1, 2, 2).mul_(2);
         return z;
       }},
      {"pare.capture.113", "aten::tensor_split",
       [](const Tensor& y) {
         auto z = y.clone();
         z.tensor_split(2, 1)[0].mul_(2);
         return z;
       }},
      {"pare.capture.113", "aten::expand",
       [](const Tensor& y) {
         auto z = y.clone();
         z.expand({y.size(0), 4}).mul_(2);
         return z;
       }},
  };
  torch::manual_seed(1);
  const auto x = torch::randn({3, 4});
  for (const auto& write : writes) {
    DYNAMIC_SECTION(write.op) {
      ForwardErrorNet net(write.body);
      const auto weight = net.fc->weight.clone();
      const auto error = forward_error(net, x);
      CHECK(error.id == write.id);
      CHECK(error.path == "fc");
      CHECK(error_mentions(error.text, write.op));
      CHECK(forward_error(net, x, {.verify = false}).id == write.id);
      CHECK(net.is_training());
      CHECK_FALSE(net.fc->is_training());
      CHECK(torch::equal(net.fc->weight, weight));
      // The same module is captured once its forward is written otherwise.
      net.body = [](const Tensor& y) { return y * 2; };
      CHECK(torch::equal(pare::capture(net, x)(x), net.forward(x)));
    }
  }
}

TEST_CASE("a number computed from a size is refused, and a size itself is followed", "[capture]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  const auto x = torch::randn({3, 4}), rows = torch::randn({7, 4});
  ForwardErrorNet net([](const Tensor& y) { return y * (1.0 / static_cast<double>(y.size(0))); });
  const auto error = forward_error(net, x);
  CHECK(error.id == "pare.capture.133");
  CHECK(error.path == "fc");
  CHECK(error_mentions(error.text, "aten::mul"));
  CHECK(error_mentions(error.text, "0.5 and 0.333"));  // at batches of 2 and 3
  CHECK(forward_error(net, x, {.verify = false}).id == "pare.capture.133");
  CHECK(torch::equal(pare::capture(net, x, {.fixed_sizes = true})(x), net.forward(x)));
  net.body = [](const Tensor& y) {
    return at::upsample_nearest2d(y.view({1, 1, -1, 4}), std::nullopt, std::vector<double>{12.0 / y.size(0), 2.0});
  };
  for (const bool verify : {true, false}) CHECK(forward_error(net, x, {.verify = verify}).id == "pare.capture.133");
  net.body = [](const Tensor& y) { return y / y.size(0); };
  CHECK(torch::equal(pare::capture(net, x)(rows), net.forward(rows)));
}

TEST_CASE("modes that compute too differently make a Model for evaluation, which says why", "[capture]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  const auto x = torch::randn({3, 4}), rows = torch::randn({7, 4});
  SECTION("an operator is given another number") {
    ForwardErrorSlope net;
    auto model = pare::capture(net, x);
    CHECK(net.is_training());
    check_evaluation_only(model, "fc: aten::leaky_relu");
    net.eval();
    CHECK(torch::equal(model(rows), net.forward(rows)));
  }
  SECTION("there is another number of outputs") {
    ForwardErrorOutputs net;
    auto model = pare::capture(net, x);
    CHECK(net.is_training());
    check_evaluation_only(model, "1 tensors in evaluation mode and 2 in training mode");
    net.eval();
    CHECK(torch::equal(model(rows), net.forward(rows)[0]));
  }
}
