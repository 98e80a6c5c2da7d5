#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "examples/models/cifar_resnet.hpp"
#include "examples/models/mlp.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"
#include "tests/support/catch.hpp"

namespace {

using Weights = std::map<std::string, torch::Tensor>;

// A file in the temporary folder, removed at the end of the scope.
struct ScratchFile {
  ScratchFile() : path((std::filesystem::temp_directory_path() / unique()).string()) {}
  ~ScratchFile() { std::filesystem::remove(path); }
  static std::string unique() {
    static int count = 0;
    return "pare_checkpoint_test_" + std::to_string(::getpid()) + "_" + std::to_string(count++) + ".safetensors";
  }
  std::string path;
};

// Loads `weights` into `module` and returns the error's id and text, or nothing.
std::pair<std::string, std::string> load(torch::nn::Module& module, const Weights& weights,
                                         const pare::LoadOptions& options = {}) {
  const ScratchFile file;
  pare::save_safetensors(file.path, weights);
  try {
    pare::load_weights(module, pare::SafeTensors(file.path), options);
    return {};
  } catch (const pare::Error& error) {
    CHECK(error.path() == file.path);
    return {error.id(), error.what()};
  }
}

Weights copy(const Weights& weights) {
  Weights result;
  for (const auto& [name, tensor] : weights) result[name] = tensor.detach().clone();
  return result;
}

bool same(const Weights& a, const Weights& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&](const auto& item) {
           return b.count(item.first) == 1 && torch::equal(item.second, b.at(item.first));
         });
}

}  // namespace

TEST_CASE("tensors of every dtype survive a file") {
  torch::manual_seed(0);
  Weights weights;
  for (const auto dtype : {torch::kDouble, torch::kFloat, torch::kHalf, torch::kBFloat16}) {
    weights[c10::toString(dtype)] = torch::randn({3, 5}).to(dtype);
  }
  for (const auto dtype : {torch::kLong, torch::kInt, torch::kShort, torch::kChar, torch::kByte}) {
    weights[c10::toString(dtype)] = torch::randint(0, 100, {7}, dtype);
  }
  weights["bool"] = torch::tensor({true, false, true});
  weights["scalar"] = torch::tensor(3.5F);
  weights["empty"] = torch::empty({0, 4});
  weights["strided"] = torch::randn({4, 6}).t();
  weights["naïve \"name\""] = torch::randn({1});

  const ScratchFile file;
  pare::save_safetensors(file.path, weights, {{"source", "a test"}});
  const pare::SafeTensors read(file.path);
  CHECK(read.metadata() == std::map<std::string, std::string>{{"source", "a test"}});
  REQUIRE(read.size() == weights.size());
  for (const auto& [name, tensor] : weights) {
    INFO(name);
    CHECK(read.at(name).dtype() == tensor.dtype());
    CHECK(torch::equal(read.at(name), tensor));
  }
  CHECK_THROWS_AS(read.at("nonesuch"), pare::Error);
}

TEST_CASE("what the format cannot hold is refused and leaves no file") {
  const ScratchFile file;
  CHECK_THROWS_AS(pare::save_safetensors(file.path, {{"a", torch::Tensor()}}), pare::Error);
  CHECK_THROWS_AS(pare::save_safetensors(file.path, {{"a", torch::ones({1}, torch::kComplexFloat)}}), pare::Error);
  CHECK_THROWS_AS(pare::save_safetensors(file.path, {{"\xff", torch::ones({1})}}), pare::Error);
  CHECK_THROWS_AS(pare::save_safetensors("/nonesuch/folder/file", {{"a", torch::ones({1})}}), pare::Error);
  CHECK_FALSE(std::filesystem::exists(file.path));
  CHECK_FALSE(std::filesystem::exists(file.path + ".partial"));
}

TEST_CASE("a module's weights go out and come back") {
  torch::manual_seed(0);
  models::CifarResNet saved(20), loaded(20);
  saved->train();
  saved->forward(torch::randn({4, 3, 32, 32}));  // gives the running statistics values of their own
  CHECK(load(*loaded, pare::named_weights(*saved)).first.empty());
  saved->eval();
  loaded->eval();
  const auto x = torch::randn({2, 3, 32, 32});
  CHECK(torch::equal(saved->forward(x), loaded->forward(x)));
}

TEST_CASE("values are converted to the module's dtype, in place") {
  torch::manual_seed(0);
  for (const auto dtype : {torch::kHalf, torch::kBFloat16, torch::kDouble}) {
    models::Mlp net(std::vector<int64_t>{6, 4, 2});
    auto weights = copy(pare::named_weights(*net));
    for (auto& [name, tensor] : weights) tensor = torch::randn_like(tensor).to(dtype);
    const auto before = net->parameters();
    CHECK(load(*net, weights).first.empty());
    for (const auto& [name, tensor] : pare::named_weights(*net)) {
      CHECK(tensor.scalar_type() == torch::kFloat);
      CHECK(tensor.requires_grad());
      CHECK(torch::equal(tensor, weights.at(name).to(torch::kFloat)));
    }
    for (size_t i = 0; i < before.size(); ++i) CHECK(before[i].is_same(net->parameters()[i]));
  }
}

TEST_CASE("names are translated on the way in") {
  torch::manual_seed(0);
  models::Mlp net(std::vector<int64_t>{6, 4, 2});
  Weights weights;
  for (const auto& [name, tensor] : copy(pare::named_weights(*net))) {
    weights["model/" + name.substr(7)] = torch::randn_like(tensor);
  }
  CHECK(load(*net, weights, {.rename = {{"^model/(.*)", "layers.$1"}}}).first.empty());
  CHECK(torch::equal(pare::named_weights(*net).at("layers.1.bias"), weights.at("model/1.bias")));
  const auto by_function = [](const std::string& name) { return "layers." + name.substr(6); };
  CHECK(load(*net, weights, {.map = by_function}).first.empty());
  CHECK(load(*net, weights, {.rename = {{".*weight", "w"}}}).first == "pare.checkpoint.113");
  CHECK(load(*net, weights, {.rename = {{"(", ""}}}).first == "pare.checkpoint.114");
}

TEST_CASE("what does not fit is named and changes nothing") {
  torch::manual_seed(0);
  models::Mlp net(std::vector<int64_t>{6, 4, 2});
  const auto original = copy(pare::named_weights(*net));
  auto weights = copy(original);
  for (auto& [name, tensor] : weights) tensor.normal_();

  SECTION("missing") {
    weights.erase("layers.1.bias");
    const auto [id, text] = load(*net, weights);
    CHECK(id == "pare.checkpoint.110");
    CHECK(text.find("layers.1.bias") != std::string::npos);
  }
  SECTION("missing under another name") {
    weights["layers.1.bais"] = weights.at("layers.1.bias");
    weights.erase("layers.1.bias");
    const auto [id, text] = load(*net, weights);
    CHECK(id == "pare.checkpoint.110");
    CHECK(text.find("layers.1.bais") != std::string::npos);
  }
  SECTION("extra") {
    weights["head.weight"] = torch::ones({1});
    const auto [id, text] = load(*net, weights);
    CHECK(id == "pare.checkpoint.111");
    CHECK(text.find("head.weight") != std::string::npos);
  }
  SECTION("mis-shaped") {
    weights["layers.1.weight"] = torch::ones({4, 2});
    const auto [id, text] = load(*net, weights);
    CHECK(id == "pare.checkpoint.112");
    CHECK(text.find("[4, 2]") != std::string::npos);
    CHECK(text.find("[2, 4]") != std::string::npos);
  }
  SECTION("integers for real numbers") {
    weights["layers.1.weight"] = torch::ones({2, 4}, torch::kLong);
    CHECK(load(*net, weights).first == "pare.checkpoint.115");
  }
  SECTION("numbers beyond the module's type") {
    weights["layers.1.bias"] = torch::full({2}, 1e300, torch::kDouble);
    CHECK(load(*net, weights).first == "pare.checkpoint.116");
  }
  CHECK(same(pare::named_weights(*net), original));
}

TEST_CASE("integers and infinities survive a change of type or are refused") {
  struct Counts : torch::nn::Module {
    Counts() {
      few = register_buffer("few", torch::zeros({2}, torch::kChar));
      scale = register_buffer("scale", torch::zeros({2}, torch::kHalf));
    }
    torch::Tensor few, scale;
  } module;
  const auto infinite = torch::full({2}, std::numeric_limits<double>::infinity(), torch::kDouble);
  const auto numbers = torch::tensor({-128, 127}, torch::kLong);
  CHECK(load(module, {{"few", numbers}, {"scale", infinite}}).first.empty());
  CHECK(torch::equal(module.few.to(torch::kLong), numbers));
  CHECK(module.scale.isinf().all().item<bool>());
  CHECK(load(module, {{"few", numbers + 1}, {"scale", infinite}}).first == "pare.checkpoint.116");
  CHECK(load(module, {{"few", numbers}, {"scale", torch::full({2}, 7e4)}}).first == "pare.checkpoint.116");
  CHECK(torch::equal(module.few.to(torch::kLong), numbers));
}

TEST_CASE("what may be missing or extra is said by the caller") {
  torch::manual_seed(0);
  models::Mlp net(std::vector<int64_t>{6, 4, 2});
  auto weights = copy(pare::named_weights(*net));
  weights.erase("layers.1.bias");
  weights["optimizer.step"] = torch::ones({1});
  CHECK(load(*net, weights, {.allow_missing = {".*bias"}, .allow_extra = {"optimizer\\..*"}}).first.empty());
}

TEST_CASE("a tensor that a module holds under two names may come under either") {
  struct Tied : torch::nn::Module {
    Tied() {
      table = register_parameter("table", torch::randn({3, 3}));
      register_parameter("head", table);
    }
    torch::Tensor table;
  } net;
  const auto values = torch::randn({3, 3});
  CHECK(load(net, {{"head", values}}).first.empty());
  CHECK(torch::equal(net.table, values));
}
