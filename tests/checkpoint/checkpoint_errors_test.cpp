// What no file holds, and what a file does not hold.
#include <torch/torch.h>

#include <ATen/CPUGeneratorImpl.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "pare/capture/capture.hpp"
#include "pare/checkpoint/checkpoint.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/graph/rewriter.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

struct CheckpointNoisy : torch::nn::Module {
  CheckpointNoisy() { fc = register_module("fc", torch::nn::Linear(4, 4)); }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = fc(x);
    return y * at::bernoulli(at::full_like(y, 0.5), generator);
  }
  torch::nn::Linear fc{nullptr};
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(3);
};

struct CheckpointOddName : torch::nn::Module {
  CheckpointOddName() { fc = register_module("f\xff", torch::nn::Linear(4, 4)); }
  torch::Tensor forward(const torch::Tensor& x) { return fc(x); }
  torch::nn::Linear fc{nullptr};
};

struct CheckpointPhase : torch::nn::Module {
  CheckpointPhase() { phase = register_buffer("phase", torch::ones({4}, torch::kComplexFloat)); }
  torch::Tensor forward(const torch::Tensor& x) { return at::real(x * phase); }
  torch::Tensor phase;
};

struct CheckpointStrided : torch::nn::Module {
  CheckpointStrided() { fc = register_module("fc", torch::nn::Linear(4, 4)); }
  torch::Tensor forward(const torch::Tensor& x) { return fc(x).as_strided({2, 2}, {1, 1}); }
  torch::nn::Linear fc{nullptr};
};

struct CheckpointError {
  std::string id, path, text;
};

template <class Call>
CheckpointError checkpoint_error(Call&& call) {
  try {
    call();
  } catch (const pare::Error& error) {
    return {error.id(), error.path(), error.what()};
  }
  return {"none", "", ""};
}

bool error_tells(const CheckpointError& error, const std::string& what) {
  return error.text.find(what) != std::string::npos;
}

// A file is there already; what cannot be written leaves it as it is, and nothing beside it.
template <class Write>
void check_error_leaves_file(const ScratchFolder& folder, const std::string& id, Write&& write) {
  const auto path = folder.file("net.pare");
  pare::save_safetensors(path, {{"w", torch::ones({2})}});
  const auto before = contents(path);
  const auto error = checkpoint_error([&] { write(path); });
  INFO(error.text);
  CHECK(error.id == id);
  CHECK(error.path == path);
  CHECK(contents(path) == before);
  CHECK(folder.count() == 1);
}

}  // namespace

TEST_CASE("a tensor that the file has not is an error with the file and the name", "[checkpoint]") {
  const ScratchFolder folder;
  const auto path = folder.file("two.safetensors");
  pare::save_safetensors(path, {{"a", torch::ones({2})}, {"b", torch::zeros({3})}});
  for (const auto& file : {pare::SafeTensors(path), pare::SafeTensors::map(path)}) {
    CHECK(raises("pare.checkpoint.109", [&] { static_cast<void>(file.at("")); }));
    const auto error = checkpoint_error([&] { static_cast<void>(file.at("fc.weight")); });
    CHECK(error.id == "pare.checkpoint.109");
    CHECK(error.path == path);
    CHECK(error_tells(error, "fc.weight"));
    CHECK(torch::equal(file.at("a"), torch::ones({2})));
  }
}

TEST_CASE("tensors and names that the format cannot hold leave the file that is there", "[checkpoint]") {
  const ScratchFolder folder;
  const auto one = torch::ones({2, 2});
  const std::map<std::string, std::map<std::string, torch::Tensor>> cases{
      {"complex", {{"w", one.to(torch::kComplexFloat)}}},
      {"sparse", {{"w", one.to_sparse()}}},
      {"undefined", {{"w", torch::Tensor()}}},
      {"meta", {{"w", one.to(torch::kMeta)}}},
      {"the name of the metadata", {{"__metadata__", one}}},
      {"a name that is too long", {{std::string(1025, 'w'), one}}},
      {"a name that is not UTF-8", {{"w\xff", one}}},
      {"one of several", {{"a", one}, {"b", torch::Tensor()}, {"c", one}}},
  };
  for (const auto& [name, tensors] : cases) {
    DYNAMIC_SECTION(name) {
      check_error_leaves_file(folder, "pare.checkpoint.120",
                              [&](const std::string& path) { pare::save_safetensors(path, tensors); });
    }
  }
  SECTION("metadata that is not UTF-8") {
    check_error_leaves_file(folder, "pare.checkpoint.120", [&](const std::string& path) {
      pare::save_safetensors(path, {{"w", one}}, {{"epoch", "\xff"}});
    });
  }
}

TEST_CASE("a Model with names or dtypes that the format cannot hold is not written", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto x = torch::ones({2, 4});
  CheckpointOddName odd;
  CheckpointPhase turned;
  for (const auto& model : {pare::capture(odd, x), pare::capture(turned, x)}) {
    check_error_leaves_file(folder, "pare.checkpoint.120",
                            [&](const std::string& path) { pare::save_checkpoint(model, path); });
    CHECK(model(x).sizes() == x.sizes());
  }
}

TEST_CASE("a Model that draws from a generator of its own has no text and is not written", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto x = torch::ones({2, 4});
  CheckpointNoisy net;
  net.eval();
  const auto model = pare::capture(net, x, {.verify = false});  // no two runs draw the same
  check_error_leaves_file(folder, "pare.checkpoint.135",
                          [&](const std::string& path) { pare::save_checkpoint(model, path); });
  CHECK(model(x).sizes() == x.sizes());
}

TEST_CASE("a Model whose graph reaches beyond its tensors, or lies about them, is not written", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  CheckpointStrided net;
  const auto x = torch::ones({2, 4});
  const auto strided = pare::capture(net, x, {.fixed_sizes = true});
  auto wrong = pare::capture(*net.fc, x);
  const auto node = wrong.graph().find("addmm");
  REQUIRE(node != pare::kNoNode);
  pare::Rewriter(wrong).set_type(wrong.graph().node(node).output(), {torch::kFloat, {2, 5}});
  const auto save = [&](const pare::Model& model) { pare::save_checkpoint(model, folder.file("net.pare")); };
  CHECK(raises("pare.graph.210", [&] { save(strided); }));
  CHECK(path_raised([&] { save(strided); }) == "as_strided");
  CHECK(raises("pare.graph.211", [&] { save(wrong); }));
  CHECK(path_raised([&] { save(wrong); }) == "addmm");
  CHECK(folder.count() == 0);
  CHECK(torch::equal(strided(x), net.forward(x)));
}
