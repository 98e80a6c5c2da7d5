// Which tensors are inside a value, and how others get there.
#include "pare/capture/structure.hpp"

#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using torch::Tensor;

struct Pyramid {
  std::vector<Tensor> levels;
  std::optional<Tensor> mask;
  std::string name;
  int depth = 0;
};
auto pare_fields(Pyramid& pyramid) { return std::tie(pyramid.levels, pyramid.mask); }

struct Scene {
  std::map<std::string, Pyramid> views;
  Tensor pose;
};
auto pare_fields(Scene& scene) { return std::tie(scene.pose, scene.views); }  // not the order of the members

struct Sealed {
  Tensor hidden;
};

Tensor number_of(int value) { return torch::full({1}, value, torch::kLong); }

std::vector<int> numbers_in(const std::vector<Tensor>& tensors) {
  std::vector<int> numbers;
  for (const auto& tensor : tensors) numbers.push_back(tensor.defined() ? tensor.item<int>() : -1);
  return numbers;
}

// The tensors are found in this order (-1: undefined), others take their places, and the value itself keeps its own.
template <class T>
T replaced_in(const T& value, const std::vector<int>& expected) {
  const auto before = pare::tensors_of(value);
  CHECK(numbers_in(before) == expected);
  std::vector<Tensor> others;
  for (std::size_t i = 0; i < before.size(); ++i) others.push_back(number_of(100 + static_cast<int>(i)));
  const auto copy = pare::with_tensors(value, others);
  const auto after = pare::tensors_of(copy);
  REQUIRE(after.size() == others.size());
  for (std::size_t i = 0; i < after.size(); ++i) CHECK(after[i].is_same(others[i]));
  CHECK(numbers_in(pare::tensors_of(value)) == expected);
  const auto same = pare::tensors_of(pare::with_tensors(value, before));
  for (std::size_t i = 0; i < same.size(); ++i) CHECK(same[i].is_same(before[i]));
  return copy;
}

struct SceneNet : torch::nn::Module {
  SceneNet() {
    fc = register_module("fc", torch::nn::Linear(4, 4));
    eval();
  }
  Scene forward(const std::map<std::string, std::vector<Tensor>>& views, std::array<std::optional<Tensor>, 2> extras,
                int times) {
    Scene scene;
    Tensor sum;
    for (const auto& [name, levels] : views) {
      auto& view = scene.views[name];
      view.depth = times;
      for (const auto& level : levels) {
        view.levels.push_back(fc(level) * times);
        sum = sum.defined() ? sum + view.levels.back() : view.levels.back();
      }
    }
    if (extras[0]) sum = sum + *extras[0];
    if (extras[1]) sum = sum * *extras[1];
    scene.pose = sum;
    return scene;
  }
  torch::nn::Linear fc{nullptr};
};

struct MaskedNet : torch::nn::Module {
  MaskedNet() {
    fc = register_module("fc", torch::nn::Linear(4, 4));
    eval();
  }
  Tensor forward(const Tensor& x, const Tensor& mask) { return mask.defined() ? fc(x) * mask : fc(x); }
  torch::nn::Linear fc{nullptr};
};

}  // namespace

TEST_CASE("every container gives its tensors in order and takes others in their places", "[structure]") {
  replaced_in(number_of(1), {1});
  replaced_in(std::optional(number_of(1)), {1});
  replaced_in(std::pair(number_of(1), number_of(2)), {1, 2});
  replaced_in(std::tuple(number_of(1), number_of(2), number_of(3)), {1, 2, 3});
  replaced_in(std::array{number_of(1), number_of(2)}, {1, 2});
  replaced_in(std::vector{number_of(1), number_of(2), number_of(3)}, {1, 2, 3});
  replaced_in(std::map<std::string, Tensor>{{"b", number_of(2)}, {"a", number_of(1)}}, {1, 2});
  replaced_in(std::map<int, Tensor, std::greater<>>{{1, number_of(1)}, {2, number_of(2)}}, {2, 1});
}

TEST_CASE("what is absent or empty holds no tensor, and stays so", "[structure]") {
  CHECK_FALSE(replaced_in(std::optional<Tensor>(), {}).has_value());
  CHECK(replaced_in(std::vector<Tensor>(), {}).empty());
  CHECK(replaced_in(std::map<std::string, Tensor>(), {}).empty());
  replaced_in(std::tuple<>(), {});
  replaced_in(std::array<Tensor, 0>(), {});
  const std::vector<std::optional<Tensor>> some{std::nullopt, number_of(1), std::nullopt, number_of(2)};
  const auto copy = replaced_in(some, {1, 2});
  CHECK_FALSE(copy[0].has_value());
  CHECK_FALSE(copy[2].has_value());
  CHECK(copy[3]->item<int>() == 101);
}

TEST_CASE("an undefined tensor keeps its place", "[structure]") {
  replaced_in(Tensor(), {-1});
  replaced_in(std::tuple(number_of(1), Tensor(), number_of(2)), {1, -1, 2});
  replaced_in(std::optional(Tensor()), {-1});
  const auto copy = pare::with_tensors(std::pair(number_of(1), number_of(2)), {Tensor(), number_of(3)});
  CHECK_FALSE(copy.first.defined());
}

TEST_CASE("numbers, flags and strings are left alone, and what is not opened stays closed", "[structure]") {
  const auto mixed = replaced_in(std::tuple(3, number_of(1), std::string("name"), 2.5, std::vector{true, false}), {1});
  CHECK(std::get<0>(mixed) == 3);
  CHECK(std::get<2>(mixed) == "name");
  CHECK(std::get<3>(mixed) == 2.5);
  CHECK(std::get<4>(mixed) == std::vector{true, false});
  CHECK(pare::tensors_of(7).empty());
  CHECK(pare::tensors_of(std::vector<std::int64_t>{1, 2}).empty());
  CHECK(pare::tensors_of(Sealed{number_of(1)}).empty());
}

TEST_CASE("structs open the fields that they name, inside of one another and of containers", "[structure]") {
  const Pyramid low{{number_of(2), number_of(3)}, number_of(4), "low", 2}, high{{}, std::nullopt, "high", 0};
  const auto copy = replaced_in(low, {2, 3, 4});
  CHECK(copy.name == "low");
  CHECK(copy.depth == 2);
  replaced_in(high, {});
  const Scene scene{{{"right", high}, {"left", low}}, number_of(1)};
  const auto other = replaced_in(scene, {1, 2, 3, 4});
  CHECK(other.pose.item<int>() == 100);
  CHECK(other.views.at("left").mask->item<int>() == 103);
  CHECK_FALSE(other.views.at("right").mask.has_value());
  CHECK(other.views.at("right").name == "high");
  replaced_in(std::vector{std::optional(std::pair(low, number_of(9))), {}}, {2, 3, 4, 9});
  replaced_in(std::map<int, std::tuple<std::array<Tensor, 1>, Scene>>{{0, {{number_of(5)}, scene}}}, {5, 1, 2, 3, 4});
}

TEST_CASE("each_tensor hands out the tensors themselves", "[structure]") {
  Scene scene{{{"view", {{number_of(1)}, std::nullopt, "", 1}}}, number_of(2)};
  pare::each_tensor(scene, [](Tensor& tensor) { tensor = tensor + 10; });
  CHECK(numbers_in(pare::tensors_of(scene)) == std::vector<int>{12, 11});
}

TEST_CASE("a module takes maps of vectors and arrays of optionals, and returns structs in structs", "[structure]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(0);
  SceneNet net;
  using Views = std::map<std::string, std::vector<Tensor>>;
  using Extras = std::array<std::optional<Tensor>, 2>;
  const auto make = [](std::int64_t n) {
    return std::make_tuple(Views{{"b", {torch::randn({n, 4})}}, {"a", {torch::randn({n, 4}), torch::randn({n, 4})}}},
                           Extras{std::nullopt, torch::randn({n, 4})}, 3);
  };
  const auto model = pare::capture(net, make(2));
  CHECK(model.graph().inputs().size() == 4);
  const auto input = make(5);
  const auto expected = pare::tensors_of(net.forward(std::get<0>(input), std::get<1>(input), std::get<2>(input)));
  const auto actual = model.run(pare::tensors_of(input));
  REQUIRE(actual.size() == 4);
  REQUIRE(expected.size() == 4);
  for (std::size_t i = 0; i < actual.size(); ++i) CHECK(torch::equal(actual[i], expected[i]));
}

TEST_CASE("an absent input is an undefined tensor, in the capture and in the run", "[structure]") {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(0);
  MaskedNet net;
  const auto model = pare::capture(net, std::tuple(torch::randn({2, 4}), Tensor()));
  const auto x = torch::randn({3, 4});
  CHECK(torch::equal(model.run({x, Tensor()}).at(0), net.forward(x, Tensor())));
  CHECK(raises("pare.run.101", [&] { (void)model.run({x}); }));
}

TEST_CASE("an example without a tensor is refused", "[structure]") {
  SceneNet net;
  const std::tuple<std::map<std::string, std::vector<Tensor>>, std::array<std::optional<Tensor>, 2>, int> none{
      {}, {}, 1};
  CHECK(raises("pare.capture.101", [&] { (void)pare::capture(net, none); }));
}
