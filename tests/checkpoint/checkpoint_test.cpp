// Models that go to disk and come back.
#include "pare/checkpoint/checkpoint.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <torch/torch.h>

#include <unistd.h>
#include <filesystem>

#include <chrono>
#include <random>
#include <thread>

#include "examples/models/registry.hpp"
#include "pare/capture/capture.hpp"
#include "pare/capture/commit.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/graph/text.hpp"
#include "pare/pass/apply.hpp"
#include "pare/prune/pruner.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

struct Subject {
  models::Bundle bundle;
  pare::Model model;
};

Subject capture(const std::string& name, int seed = 3) {
  torch::manual_seed(seed);
  auto bundle = models::make(name);
  models::settle(bundle);
  bundle.module->eval();
  auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2));
  return {std::move(bundle), std::move(model)};
}

pare::Model applied(const Subject& subject, const pare::AnyPass& pass) {
  const std::vector<pare::Batch> batches{subject.bundle.example(4)};
  return pare::apply(pass, subject.model, {.calibration = batches}).model;
}

void check_same(const pare::Model& before, const pare::Model& after, const std::vector<at::Tensor>& inputs) {
  const auto expected = before.run(inputs), actual = after.run(inputs);
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) CHECK(torch::equal(expected[i], actual[i]));
}

pare::Quantizer<> quick() { return {.rounding = pare::Rounding::Nearest, .correct_bias = false, .smooth = false}; }

// A checkpoint with one entry of its metadata changed, checksum and all else as it was.
void rewrite(const std::string& path, const std::string& key, const std::string& value) {
  const pare::SafeTensors file(path);
  auto metadata = file.metadata();
  metadata[key] = value;
  pare::save_safetensors(path, file.tensors(), metadata);
}

}  // namespace

TEST_CASE("quantized models come back bit for bit, at the size of their integers", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  for (const auto* name : {"resnet20", "lstm", "two_tower", "unet"}) {
    DYNAMIC_SECTION(name) {
      const auto subject = capture(name);
      const auto model = applied(subject, quick());
      const auto path = folder.file("net.pare"), loose = folder.file("loose.pare");
      pare::save_checkpoint(model, path);
      pare::save_checkpoint(model, loose, {.pack = false});
      const auto inputs = subject.bundle.example(3);
      check_same(model, pare::load_checkpoint(path), inputs);
      check_same(model, pare::load_checkpoint(loose), inputs);
      CHECK(std::filesystem::file_size(path) < std::filesystem::file_size(loose) * 2 / 5);
      CHECK(pare::load_checkpoint(path).notes() == model.notes());
      CHECK(folder.count() == 2);
    }
  }
}

TEST_CASE("int4 weights take half a byte, in groups too", "[checkpoint]") {
  const torch::NoGradGuard no_grad;
  const ScratchFolder folder;
  const auto subject = capture("mlp");
  for (const pare::Granularity granularity :
       {pare::Granularity(pare::PerChannel{}), pare::Granularity(pare::PerGroup{32}),
        pare::Granularity(pare::PerTensor{})}) {
    auto pass = quick();
    pass.weights = {4};
    pass.granularity = granularity;
    const auto model = applied(subject, pass);
    const auto path = folder.file("net.pare");
    pare::save_checkpoint(model, path);
    check_same(model, pare::load_checkpoint(path), subject.bundle.example(3));
    const pare::SafeTensors file(path);
    const auto stored = file.at("layers.0.weight");
    CHECK(stored.scalar_type() == torch::kByte);
    CHECK(stored.numel() == 784 * 256 / 2);
  }
}

TEST_CASE("a pruned model goes back into the module that its code makes", "[checkpoint]") {
  const ScratchFolder folder;
  const auto path = folder.file("pruned.pare");
  const auto subject = capture("resnet8");
  const auto pruned = applied(subject, pare::Pruner{.macs = pare::Ratio{0.4}});
  pare::save_checkpoint(pruned, path, {.metadata = {{"epoch", "7"}}});
  CHECK(pare::SafeTensors(path).metadata().at("epoch") == "7");

  const auto plain = capture("resnet8", 99);
  const auto loaded = pare::load_checkpoint(path, plain.model);
  const auto inputs = subject.bundle.example(2);
  check_same(pruned, loaded, inputs);
  pare::commit(loaded, *plain.bundle.module);
  const torch::NoGradGuard no_grad;
  CHECK(torch::allclose(plain.bundle.forward(inputs).at(0), pruned.run(inputs).at(0), 1e-5, 1e-5));

  const auto other = capture("resnet20");
  CHECK(raises("pare.checkpoint.134", [&] { static_cast<void>(pare::load_checkpoint(path, other.model)); }));
}

TEST_CASE("files that are no whole checkpoint are one error each", "[checkpoint]") {
  const ScratchFolder folder;
  const auto subject = capture("digits_mlp");
  const auto model = applied(subject, quick());
  const auto path = folder.file("net.pare");
  const auto load = [&] { static_cast<void>(pare::load_checkpoint(path)); };
  CHECK(raises("pare.checkpoint.101", load));
  pare::save_safetensors(path, {{"a", torch::ones({2})}});
  CHECK(raises("pare.checkpoint.130", load));
  pare::save_checkpoint(model, path);
  rewrite(path, "pare.version", "3");
  CHECK(raises("pare.checkpoint.131", load));
  rewrite(path, "pare.version", "one");
  CHECK(raises("pare.checkpoint.133", load));
  pare::save_checkpoint(model, path);
  rewrite(path, "pare.recipe", "{}");
  CHECK(raises("pare.checkpoint.132", load));
  rewrite(path, "an.entry.of.the.future", "is left alone");
  pare::save_checkpoint(model, path, {.metadata = {{"an.entry.of.the.future", "is left alone"}}});
  CHECK_NOTHROW(load());
  CHECK(raises("pare.checkpoint.121", [&] { pare::save_checkpoint(model, folder.file("absent/net.pare")); }));
  CHECK(raises("pare.checkpoint.121", [&] { pare::save_checkpoint(model, folder.path().string()); }));
  CHECK(folder.count() == 1);
}

TEST_CASE("no damage to a checkpoint goes unnoticed", "[checkpoint]") {
  const ScratchFolder folder;
  const auto subject = capture("digits_mlp");
  const auto path = folder.file("net.pare");
  pare::save_checkpoint(applied(subject, quick()), path);
  const auto whole = contents(path);
  std::mt19937 random(5);
  const auto outcome = [&](const std::string& bytes) -> std::string {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    try {
      static_cast<void>(pare::load_checkpoint(path));
      return "";
    } catch (const pare::Error& error) {
      CHECK(std::string(error.what()).find('\n') == std::string::npos);
      return error.id();
    }
  };
  for (int i = 0; i < 60; ++i) CHECK(!outcome(whole.substr(0, random() % whole.size())).empty());
  for (int i = 0; i < 200; ++i) {
    auto bytes = whole;
    const auto at = random() % bytes.size();
    bytes[at] = static_cast<char>(bytes[at] ^ static_cast<char>(1U << random() % 8));
    const auto id = outcome(bytes);
    // Spaces that pad the header may become other spaces; everything else is noticed.
    if (id.empty()) CHECK((whole[at] == ' ' || whole[at] == '\n'));
  }
  CHECK(outcome(whole).empty());
}

TEST_CASE("hostile recipes end in an error", "[checkpoint]") {
  const ScratchFolder folder;
  const auto path = folder.file("net.pare");
  // A recipe with a checksum that fits: what an attacker would write. FNV-1a, as the file says.
  const auto sealed = [&](const std::string& recipe, const std::map<std::string, at::Tensor>& tensors) {
    std::uint64_t hash = 14695981039346656037ULL;
    const auto add = [&](const void* from, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i)
        hash = (hash ^ static_cast<const unsigned char*>(from)[i]) * 1099511628211ULL;
    };
    add(recipe.data(), recipe.size());
    for (const auto& [name, tensor] : tensors) {
      add(name.data(), name.size());
      add(tensor.const_data_ptr(), tensor.nbytes());
    }
    pare::save_safetensors(
        path, tensors,
        {{"pare.version", "1"}, {"pare.recipe", recipe}, {"pare.checksum", fmt::format("fnv1a-{:016x}", hash)}});
    static_cast<void>(pare::load_checkpoint(path));
  };
  const std::string graph =
      R"("graph {\n input %x : f32[2, 4]\n weight $w : f32[3, 4]\n %0 = aten::linear(%x, $w, none) : f32[2, 3]\n output %0\n}")";
  const auto entry = [](const std::string& packed) {
    return R"({"w": {"parameter": true, "packed": {)" + packed + "}}}";
  };
  const auto recipe = [&](const std::string& weights) {
    return R"({"graph": )" + graph + R"(, "weights": )" + weights + "}";
  };
  const std::map<std::string, at::Tensor> plain{{"w", torch::ones({3, 4})}},
      bytes{{"w", torch::ones({3, 4}, torch::kChar)}};
  CHECK_NOTHROW(sealed(recipe(R"({"w": {"parameter": true}})"), plain));
  const auto fields = [](const char* kind, const char* sizes, const char* rows, const char* axis, const char* scale) {
    return fmt::format(R"("kind": "{}", "sizes": {}, "rows": {}, "axis": {}, "quant_min": -127, "quant_max": 127, )"
                       R"("scale": {}, "zero_point": 0)",
                       kind, sizes, rows, axis, scale);
  };
  CHECK_NOTHROW(sealed(recipe(entry(fields("int8", "[3, 4]", "[3, 4]", "0", "0.5"))), bytes));
  for (const auto& text : std::vector<std::string>{
           "", "[]", "{}", "nonsense", recipe("[]"), recipe("{}"), recipe(R"({"w": {}})"),
           recipe(R"({"w": {"parameter": 3}})"), recipe(R"({"v": {"parameter": true}})"),
           R"({"graph": 5, "weights": {}})", R"({"graph": "graph {", "weights": {"w": {"parameter": true}}})",
           recipe(R"({"w": {"parameter": true, "kept": [{"dim": "x"}]}})")})
    CHECK(raises("pare.checkpoint.133", [&] { sealed(text, plain); }));
  for (const auto& packed :
       {fields("int8", "[3, 5]", "[3, 4]", "0", "0.5"), fields("int8", "[3, 4]", "[3, -4]", "0", "0.5"),
        fields("int4", "[3, 4]", "[3, 4]", "0", "0.5"), fields("int9", "[3, 4]", "[3, 4]", "0", "0.5"),
        fields("int8", "[3, 4]", "[9223372036854775807, 4]", "0", "0.5"),
        fields("int8", "[3, 4]", "[3, 4]", "7", "\"w\""), fields("int8", "[3, 4]", "[3, 4]", "0", "\"v\""),
        fields("int8", "[12]", "[12]", "0", "0.5"), std::string("\"kind\": 3")})
    CHECK(raises("pare.checkpoint.133", [&] { sealed(recipe(entry(packed)), bytes); }));
  // Graphs that verify, but call what no model calls, or are not what they say.
  const auto victim = folder.file("victim");
  const auto with_line = [&](const std::string& line, const std::string& output) {
    auto text = recipe(R"({"w": {"parameter": true}})");
    text.replace(text.find(" output %0"), 10, " " + line + "\\n output " + output);
    return text;
  };
  for (const auto& text :
       {with_line(fmt::format(R"(%1 = aten::from_file(\"{}\", true, 6) : f32[6])", victim), "%0"),
        with_line("%1 = aten::resize_($w, [9999], none) : f32[9999]", "%0"),
        with_line("%1 = aten::as_strided(%0, [9, 1000], [1, 1], 0) : f32[9, 1000]", "%1"),
        with_line("%1 = aten::relu(%0) : f32[2, 3000000]", "%1"), with_line("%1 = aten::relu(%0) : i64[2, 3]", "%1"),
        with_line("%1 = aten::t(%0) : f32[2, 3]", "%1"),
        with_line("%1 = aten::fake_quantize_per_tensor_affine(%0, 0.5, 0, 0, 255) : f32[9, 3]", "%1"),
        with_line("%1 = aten::relu(%0) : f32[2, 3]", "absent")})
    CHECK(raises("pare.checkpoint.133", [&] { sealed(text, plain); }));
  CHECK_NOTHROW(sealed(with_line("%1 = aten::t(%0) : f32[3, 2]", "%1"), plain));
  CHECK_FALSE(std::filesystem::exists(victim));
}

TEST_CASE("a process killed while it writes leaves the old file or the new one", "[checkpoint]") {
  const ScratchFolder folder;
  const auto path = folder.file("net.pare");
  const auto save = [&](double value) {
    pare::save_safetensors(path, {{"a", torch::full({1 << 17}, value)}}, {{"value", std::to_string(value)}});
  };
  save(0);
  double furthest = 0;
  for (int round = 0; round < 12 || (furthest == 0 && round < 60); ++round) {
    const auto child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      at::set_num_threads(1);  // the team of the parent's threads is not here
      for (int i = 1;; ++i) save(i);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5 + 7 * round));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    const pare::SafeTensors file(path);
    CHECK(std::stod(file.metadata().at("value")) == file.at("a")[1].item<double>());
    CHECK(file.at("a").eq(file.at("a")[0]).all().item<bool>());
    furthest = std::max(furthest, file.at("a")[0].item<double>());
  }
  CHECK(furthest > 0);  // it did write
}
