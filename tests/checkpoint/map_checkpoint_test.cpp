// Checkpoints as the files of compiled models: mapped, their weights the integers that they are.
#include "pare/checkpoint/map_checkpoint.hpp"

#include <torch/torch.h>

#include <cstdint>
#include <sstream>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/checkpoint/checkpoint.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/execute/compile.hpp"
#include "pare/numerics/fake_quantize.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

struct Saved {
  pare::Model model;
  models::Tensors inputs;
};

// A quantized example model, written to `path`.
Saved save(const std::string& name, const std::string& path, const pare::Quantizer<>& pass) {
  torch::manual_seed(3);
  auto bundle = models::make(name);
  models::settle(bundle);
  bundle.module->eval();
  const auto captured = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  const std::vector<pare::Batch> batches{bundle.example(4)};
  auto model = pare::apply(pass, captured, {.calibration = batches}).model;
  pare::save_checkpoint(model, path);
  return {std::move(model), bundle.example(3)};
}

pare::Quantizer<> nearest(int bits = 8, pare::Granularity granularity = pare::PerChannel{}) {
  return {.weights = {bits},
          .granularity = granularity,
          .rounding = pare::Rounding::Nearest,
          .correct_bias = false,
          .smooth = false};
}

void check_same(const models::Tensors& expected, const models::Tensors& actual) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) CHECK(torch::equal(expected[i], actual[i]));
}

// The file that a tensor's first byte is a page of.
std::string file_behind(const at::Tensor& tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0, end = 0;
    char dash = 0;
    std::istringstream fields(line);
    fields >> std::hex >> begin >> dash >> end;
    if (address >= begin && address < end) return line.substr(std::min(line.size(), line.find('/')));
  }
  return {};
}

}  // namespace

TEST_CASE("mapped models compute and compile to the same, from the file's own pages", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto path = folder.file("net.pare");
  const pare::CompileOptions options{.threads = 1, .tune = false};
  for (const auto* name : {"resnet20", "lstm", "two_tower", "unet", "transformer"}) {
    DYNAMIC_SECTION(name) {
      const auto saved = save(name, path, nearest());
      const auto mapped = pare::map_checkpoint(path);
      check_same(saved.model.run(saved.inputs), mapped.run(saved.inputs));
      const auto expected = pare::compile(pare::load_checkpoint(path), options);
      const auto actual = pare::compile(mapped, options);
      CHECK(actual.weight_bytes() == expected.weight_bytes());
      check_same(expected.run(saved.inputs), actual.run(saved.inputs));
      CHECK(mapped.parameters().empty());
      CHECK_FALSE(mapped.can_train());

      std::size_t bytes = 0, integers = 0;
      for (const auto& [weight, entry] : mapped.weights()) {
        if (entry.tensor.numel() == 0 || weight.ends_with(":scale")) continue;
        CHECK(file_behind(entry.tensor).ends_with("/net.pare"));
        bytes += entry.tensor.nbytes();
        integers += entry.tensor.scalar_type() == torch::kChar ? 1 : 0;
      }
      CHECK(bytes < std::filesystem::file_size(path));
      CHECK(integers >= 2);
    }
  }
}

TEST_CASE("int4 weights stay two a byte in the pages of their file", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto path = folder.file("net.pare");
  const pare::CompileOptions options{.threads = 1, .tune = false};
  for (const pare::Granularity granularity :
       {pare::Granularity(pare::PerChannel{}), pare::Granularity(pare::PerGroup{32}),
        pare::Granularity(pare::PerTensor{})}) {
    const auto saved = save("mlp", path, nearest(4, granularity));
    const auto mapped = pare::map_checkpoint(path);
    const auto weight = mapped.weight("layers.0.weight");
    CHECK(weight.scalar_type() == torch::kByte);
    CHECK(2 * weight.numel() == saved.model.weight("layers.0.weight").numel());
    CHECK(file_behind(weight).ends_with("/net.pare"));
    check_same(saved.model.run(saved.inputs), mapped.run(saved.inputs));
    const auto expected = pare::compile(saved.model, options), actual = pare::compile(mapped, options);
    CHECK(actual.weight_bytes() == expected.weight_bytes());
    check_same(expected.run(saved.inputs), actual.run(saved.inputs));
  }
}

TEST_CASE("integers with zero points stay integers when they are mapped", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto path = folder.file("net.pare");
  for (const int bits : {4, 8})
    for (const pare::Granularity granularity :
         {pare::Granularity(pare::PerChannel{}), pare::Granularity(pare::PerGroup{32}),
          pare::Granularity(pare::PerTensor{})}) {
      auto pass = nearest(bits, granularity);
      pass.symmetric_weights = false;
      const auto saved = save("mlp", path, pass);
      const auto mapped = pare::map_checkpoint(path);
      CHECK(mapped.weight("layers.0.weight").element_size() == 1);
      check_same(saved.model.run(saved.inputs), mapped.run(saved.inputs));
      const auto expected = pare::compile(saved.model), actual = pare::compile(mapped);
      CHECK(actual.weight_bytes() == expected.weight_bytes());
      CHECK(pare::sqnr_db(expected.run(saved.inputs).at(0), actual.run(saved.inputs).at(0)) > 60.0);
    }
}

TEST_CASE("what is mapped neither changes its file nor is changed by a later one", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto path = folder.file("net.pare");
  const auto saved = save("mlp", path, nearest());
  const auto whole = contents(path);
  const auto mapped = pare::map_checkpoint(path);
  const auto expected = mapped.run(saved.inputs);
  static_cast<void>(save("lenet", path, nearest()));
  check_same(expected, mapped.run(saved.inputs));

  std::ofstream(path, std::ios::binary | std::ios::trunc) << whole;
  const auto other = pare::SafeTensors::map(path);
  other.at("layers.0.weight").fill_(1);
  CHECK(contents(path) == whole);
  CHECK(other.at("layers.0.weight").eq(1).all().item<bool>());
}

TEST_CASE("damage to a file that is mapped is an error", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto path = folder.file("net.pare");
  const auto load = [&](bool check) { static_cast<void>(pare::map_checkpoint(path, {.check_weights = check})); };
  CHECK(raises("pare.checkpoint.101", [&] { load(false); }));
  CHECK(raises("pare.checkpoint.101", [&] { static_cast<void>(pare::map_checkpoint(folder.path().string())); }));
  static_cast<void>(save("digits_mlp", path, nearest()));
  const auto whole = contents(path);
  const auto write = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  };
  load(true);
  for (const auto size : {std::size_t{0}, std::size_t{7}, std::size_t{100}}) {
    write(whole.substr(0, size));
    CHECK(raises("pare.checkpoint.102", [&] { load(false); }));
  }
  write(whole.substr(0, whole.size() - 1));
  CHECK(raises("pare.checkpoint.107", [&] { load(false); }));

  auto bytes = whole;
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write(bytes);
  CHECK_NOTHROW(load(false));
  CHECK(raises("pare.checkpoint.132", [&] { load(true); }));

  bytes = whole;
  const auto in_recipe = bytes.find("fake_quantize");
  REQUIRE(in_recipe != std::string::npos);
  bytes[in_recipe] = 'F';
  write(bytes);
  CHECK(raises("pare.checkpoint.132", [&] { load(false); }));
}
