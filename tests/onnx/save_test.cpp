// What an ONNX file holds, and what cannot become one.
#include "pare/onnx/save.hpp"

#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/graph/text.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "pare/quantize/round_biases.hpp"
#include "tests/onnx/onnx_reader.hpp"
#include "tests/onnx/runtimes.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

struct SmallImpl : torch::nn::Module {
  SmallImpl() {
    register_module("conv", conv);
    register_module("fc", fc);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(conv(x));
    return fc(torch::max_pool2d(y, 2).flatten(1));
  }
  torch::nn::Conv2d conv{torch::nn::Conv2dOptions(3, 8, 3).padding(1)};
  torch::nn::Linear fc{8 * 4 * 4, 5};
};
TORCH_MODULE(Small);

pare::Model small_model() {
  torch::manual_seed(1);
  static Small net;
  net->eval();
  return pare::capture(net, torch::randn({2, 3, 8, 8}));
}

pare::Model quantized(const pare::Model& model, const pare::AnyPass& pass) {
  torch::manual_seed(2);
  return pare::apply(pass, model, {.calibration = pare::Batches{torch::randn({16, 3, 8, 8})}}).model;
}

pare::Model from_text(const std::string& text, pare::Weights weights = {}) {
  return pare::Model(pare::parse_graph(text), std::move(weights));
}

constexpr int kInt8 = 3, kInt32 = 6, kInt4 = 22;

}  // namespace

TEST_CASE("an exported model keeps names, dims and metadata", "[onnx]") {
  const ScratchFolder folder;
  const auto path = folder.file("net.onnx");
  pare::onnx::save(small_model(), path, {.metadata = {{"plan", "none"}}});
  const auto file = read_onnx(path);
  CHECK(file.opset == 17);
  REQUIRE(file.inputs.size() == 1);
  CHECK(file.inputs.begin()->second == std::vector<std::string>{"batch", "3", "8", "8"});
  CHECK(file.outputs == std::vector<std::string>{"output"});
  CHECK(file.metadata.at("plan") == "none");
  CHECK(file.initializers.contains("conv.weight"));
  CHECK(file.initializers.contains("fc.weight"));
  CHECK(file.count("Conv") == 1);
  CHECK(file.count("Gemm") == 1);
  CHECK(folder.count() == 1);
  pare::onnx::save(small_model(), path, {.opset = 20, .input_names = {"image"}, .output_names = {"scores"}});
  const auto renamed = read_onnx(path);
  CHECK(renamed.opset == 20);
  CHECK(renamed.inputs.contains("image"));
  CHECK(renamed.outputs == std::vector<std::string>{"scores"});
}

TEST_CASE("quantized weights are stored as integers, biases as int32", "[onnx]") {
  const ScratchFolder folder;
  const auto path = folder.file("net.onnx");
  pare::onnx::save(quantized(small_model(), pare::Quantizer{}), path);
  const auto file = read_onnx(path);
  std::size_t int8_weights = 0, int32_biases = 0, floats = 0;
  for (const auto& [name, tensor] : file.initializers) {
    if (tensor.type == kInt8 && tensor.dims.size() > 1) ++int8_weights;
    if (tensor.type == kInt32 && tensor.bytes > 4) ++int32_biases;
    if (tensor.type == 1 && tensor.dims.size() > 1) ++floats;
  }
  CHECK(int8_weights == 2);
  CHECK(int32_biases >= 2);
  CHECK(floats == 0);
  CHECK(file.count("QuantizeLinear") >= 2);
}

TEST_CASE("int4 weights in groups take operator set 21 and half a byte each", "[onnx]") {
  const ScratchFolder folder;
  const auto model = quantized(
      small_model(),
      pare::Quantizer{.keep_float = {"conv"}, .weights = {4}, .granularity = pare::PerGroup{32}, .weight_only = true});
  const auto path = folder.file("net.onnx");
  pare::onnx::save(model, path);
  const auto file = read_onnx(path);
  CHECK(file.opset == 21);
  std::size_t packed = 0;
  for (const auto& [name, tensor] : file.initializers)
    if (tensor.type == kInt4 && tensor.dims == std::vector<std::int64_t>{5, 128}) packed = tensor.bytes;
  CHECK(packed == 5 * 128 / 2);
  const auto python = peers_python();
  if (!python) return;
  const auto x = torch::randn({3, 3, 8, 8});
  write_samples(folder.file("net.safetensors"), model, {x}, model.run({x}));
  const auto rows = run_models(*python, {folder.file("net")}, folder.path().string());
  REQUIRE(rows.size() == 1);
  CHECK(rows[0]["onnxruntime"]["relative_difference"].get<double>() < 1e-4);
}

TEST_CASE("biases are rounded to the integers of their layer's sums as they are written", "[onnx]") {
  const ScratchFolder folder;
  const auto model = quantized(small_model(), pare::Quantizer{});
  const auto rounded = pare::apply(pare::RoundBiases{}, model).model;
  CHECK_FALSE(torch::equal(model.weight("fc.bias"), rounded.weight("fc.bias")));
  const auto kept = model.weight("fc.bias").clone();
  pare::onnx::save(model, folder.file("float.onnx"));
  pare::onnx::save(rounded, folder.file("rounded.onnx"));
  CHECK(contents(folder.file("float.onnx")) == contents(folder.file("rounded.onnx")));
  CHECK(torch::equal(model.weight("fc.bias"), kept));  // the model that was given is not changed
}

TEST_CASE("large initializers lie beside the model", "[onnx]") {
  const ScratchFolder folder;
  const auto model = small_model();
  pare::onnx::save(model, folder.file("net.onnx"), {.external_above = 0});
  CHECK(folder.count() == 2);
  const auto file = read_onnx(folder.file("net.onnx"));
  const auto& weight = file.initializers.at("fc.weight");
  CHECK(weight.bytes == 0);
  REQUIRE(weight.external.contains("location"));
  CHECK(weight.external.at("length") == std::to_string(5 * 128 * 4));
  CHECK(std::filesystem::exists(folder.path() / weight.external.at("location")));
  const auto python = peers_python();
  if (!python) return;
  const auto x = torch::randn({3, 3, 8, 8});
  write_samples(folder.file("net.safetensors"), model, {x}, model.run({x}));
  const auto rows = run_models(*python, {folder.file("net")}, folder.path().string());
  REQUIRE(rows.size() == 1);
  CHECK(rows[0]["onnxruntime"]["relative_difference"].get<double>() < 1e-4);
}

TEST_CASE("a model that is replaced takes its weights along", "[onnx]") {
  const ScratchFolder folder;
  const auto path = folder.file("net.onnx");
  auto model = small_model();
  const auto location = [&] {
    return folder.path() / read_onnx(path).initializers.at("fc.weight").external.at("location");
  };
  pare::onnx::save(model, path, {.external_above = 0});
  const auto first = location();
  // What the model does not name is somebody else's.
  const auto others = {"net.onnx.0123456789abcdef.data", "other.onnx.0123456789abcdef.data", "net.onnx.data"};
  for (const auto* name : others) std::ofstream(folder.file(name)) << "theirs";
  model.set_weight("fc.weight", model.weight("fc.weight").detach() + 1);
  pare::onnx::save(model, path, {.external_above = 0});
  const auto second = location();
  CHECK(first != second);
  CHECK_FALSE(std::filesystem::exists(first));
  CHECK(std::filesystem::exists(second));
  pare::onnx::save(model, path, {.external_above = 0});
  CHECK(std::filesystem::exists(second));
  pare::onnx::save(model, path);
  CHECK_FALSE(std::filesystem::exists(second));
  for (const auto* name : others) CHECK(std::filesystem::exists(folder.file(name)));
  CHECK(folder.count() == 4);
}

TEST_CASE("small initializers alone need no file beside the model", "[onnx]") {
  const ScratchFolder folder;
  const auto model = from_text("graph { input %x : f32[8] %0 = aten::mul.Scalar(%x, 3) : f32[8] output %0 }");
  pare::onnx::save(model, folder.file("net.onnx"), {.external_above = 0});
  CHECK(folder.count() == 1);
}

TEST_CASE("names of outputs step aside for those of inputs, given ones do not", "[onnx]") {
  const ScratchFolder folder;
  const auto path = folder.file("net.onnx");
  const auto model = from_text(
      "graph { input %output : f32[8] input %output_2 : f32[8] %0 = aten::relu(%output) : f32[8]"
      " %1 = aten::relu(%output_2) : f32[8] output %0, %1 }");
  pare::onnx::save(model, path);
  CHECK(read_onnx(path).outputs == std::vector<std::string>{"output_1", "output_3"});
  CHECK(raises("pare.onnx.102", [&] { pare::onnx::save(model, path, {.output_names = {"output", "b"}}); }));
}

TEST_CASE("text that is not UTF-8 is refused", "[onnx]") {
  const ScratchFolder folder;
  const auto model = small_model();
  const auto path = folder.file("net.onnx");
  for (const std::string bad : {"\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80", "a\x80"}) {
    CHECK(raises("pare.onnx.102", [&] { pare::onnx::save(model, path, {.input_names = {bad}}); }));
    CHECK(raises("pare.onnx.102", [&] { pare::onnx::save(model, path, {.output_names = {bad}}); }));
    CHECK(raises("pare.onnx.102", [&] { pare::onnx::save(model, path, {.metadata = {{bad, "x"}}}); }));
    CHECK(raises("pare.onnx.102", [&] { pare::onnx::save(model, path, {.metadata = {{"x", bad}}}); }));
  }
  CHECK(folder.count() == 0);
  const std::string good = "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80";
  pare::onnx::save(model, path, {.input_names = {good}, .metadata = {{"x", good}}});
  CHECK(read_onnx(path).inputs.contains(good));
}

TEST_CASE("sizes are computed where a model needs them", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  const ScratchFolder folder;
  const auto model = from_text(R"(graph {
    dim batch = 2
    dim length = 4
    input %x : f32[batch, length, 6]
    %0 = aten::view(%x, [batch*length, 6]) : f32[batch*length, 6]
    %1 = aten::arange(length, 6, none, none, none) : f32[length]
    %2 = aten::view(%0, [batch, length, 2, 3]) : f32[batch, length, 2, 3]
    %3 = aten::permute(%2, [0, 2, 1, 3]) : f32[batch, 2, length, 3]
    %4 = aten::unsqueeze(%1, 1) : f32[length, 1]
    %5 = aten::add.Tensor(%3, %4, 1) : f32[batch, 2, length, 3]
    %6 = aten::reshape(%5, [2*batch, length, 3]) : f32[2*batch, length, 3]
    %7 = aten::div.Scalar(%6, length) : f32[2*batch, length, 3]
    output %7
  })");
  const auto x = torch::randn({3, 5, 6});
  pare::onnx::save(model, folder.file("net.onnx"));
  write_samples(folder.file("net.safetensors"), model, {x}, model.run({x}));
  const auto rows = run_models(*python, {folder.file("net")}, folder.path().string());
  REQUIRE(rows.size() == 1);
  CHECK(rows[0]["onnxruntime"]["relative_difference"].get<double>() < 1e-6);
}

TEST_CASE("overloads of one operator leave as what each of them computes", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  const ScratchFolder folder;
  const auto model = from_text(R"(graph {
    input %x : f32[4, 6]
    %0 = aten::var(%x, false) : f32[]
    %1 = aten::std(%x, true) : f32[]
    %2 = aten::var.dim(%x, [1], false, true) : f32[4, 1]
    %3 = aten::std.correction(%x, [0], 2, false) : f32[6]
    %4 = aten::round.decimals(%x, 1) : f32[4, 6]
    %5 = aten::argmax(%x, none, true) : i64[1, 1]
    %6 = aten::to.dtype(%5, 6, false, false, none) : f32[1, 1]
    output %4, %0, %1, %2, %3, %6
  })");
  torch::manual_seed(3);
  const auto x = torch::randn({4, 6});
  pare::onnx::save(model, folder.file("net.onnx"));
  write_samples(folder.file("net.safetensors"), model, {x}, model.run({x}));
  const auto rows = run_models(*python, {folder.file("net")}, folder.path().string());
  REQUIRE(rows.size() == 1);
  CHECK(rows[0]["onnxruntime"]["relative_difference"].get<double>() < 1e-6);
}

TEST_CASE("rounding to decimals is no rounding to integers", "[onnx]") {
  const ScratchFolder folder;
  const auto path = folder.file("net.onnx");
  for (const int decimals : {0, 2, -2}) {
    const auto model = from_text(
        fmt::format("graph {{ input %x : f32[8] %0 = aten::round.decimals(%x, {}) : f32[8] output %0 }}", decimals));
    pare::onnx::save(model, path);
    const auto file = read_onnx(path);
    CHECK(file.count("Round") == 1);
    const std::size_t factors = decimals == 0 ? 0 : 1;
    CHECK(file.count("Mul") == factors);
    CHECK(file.count("Div") == factors);
  }
}

TEST_CASE("overloads that mean something else are refused", "[onnx]") {
  const ScratchFolder folder;
  const auto refused = [&](const std::string& lines) {
    const auto model = from_text("graph {\n" + lines + "\n}");
    return raises("pare.onnx.101", [&] { pare::onnx::save(model, folder.file("net.onnx")); });
  };
  CHECK(refused("input %x : f32[8]\n %0 = aten::view.dtype(%x, 3) : i32[8]\n output %0"));
  CHECK(refused("input %x : f32[8, 8]\n %0 = aten::mm.dtype(%x, %x, 7) : f64[8, 8]\n output %0"));
  CHECK(refused("input %x : bool[8]\n %0 = aten::any.dims(%x, [], false) : bool[8]\n output %0"));
  // Row -1 is the last one, and does not count.
  CHECK(refused(R"(
    input %ids : i64[10]
    input %table : f32[9, 6]
    %0 = aten::arange.start_step(0, 10, 5, none, none, none, none) : i64[2]
    %1, %2, %3, %4 = aten::embedding_bag.padding_idx(%table, %ids, %0, false, 0, false, none, false, -1) : f32[2, 6], i64[10], i64[2], i64[2]
    output %1
  )"));
  CHECK(folder.count() == 0);
}

TEST_CASE("what has no ONNX form is one error, and no file is touched", "[onnx]") {
  const ScratchFolder folder;
  const auto path = folder.file("net.onnx");
  std::ofstream(path) << "old";
  const auto model = from_text(R"(graph {
    dim batch = 2
    input %x : f32[batch, 8]
    %0 = aten::relu(%x) : f32[batch, 8]
    %1, %2 = aten::cummax(%0, -1) : f32[batch, 8], i64[batch, 8]  # order in head.sorter
    output %1
  })");
  try {
    pare::onnx::save(model, path);
    FAIL("a running maximum has no rule");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.onnx.101");
    CHECK(error.path() == "order");
    const std::string text = error.what();
    CHECK(text.find("aten::cummax") != std::string::npos);
    CHECK(text.find("head.sorter") != std::string::npos);
  }
  CHECK(contents(path) == "old");
  CHECK(folder.count() == 1);
}

TEST_CASE("bad options and paths are refused", "[onnx]") {
  const ScratchFolder folder;
  const auto model = small_model();
  const auto path = folder.file("net.onnx");
  CHECK(raises("pare.onnx.102", [&] { pare::onnx::save(model, path, {.opset = 16}); }));
  CHECK(raises("pare.onnx.102", [&] { pare::onnx::save(model, path, {.input_names = {"a", "b"}}); }));
  CHECK(raises("pare.onnx.102", [&] { pare::onnx::save(model, path, {.input_names = {"a"}, .output_names = {"a"}}); }));
  CHECK(raises("pare.onnx.104", [&] { pare::onnx::save(model, folder.file("absent/net.onnx")); }));
  CHECK(raises("pare.onnx.104", [&] { pare::onnx::save(model, folder.path().string()); }));
  CHECK(
      raises("pare.onnx.104", [&] { pare::onnx::save(model, folder.file("absent/net.onnx"), {.external_above = 0}); }));
  CHECK(folder.count() == 0);
  const auto complex = from_text("graph {\n input %x : c64[2, 2]\n output %x\n}");
  CHECK(raises("pare.onnx.103", [&] { pare::onnx::save(complex, path); }));
  CHECK(folder.count() == 0);
}
