#include "pare/analysis/machine_limits.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

#include "pare/execute/compile.hpp"
#include "pare/graph/text.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kRows = 512, kColumns = 1024;
constexpr double kGops = 2e-9 * static_cast<double>(kRows * kColumns * kColumns);

// A linear layer that keeps every core at work.
Model matrix_product(bool integers) {
  const auto x = integers ? "%0" : "%x", w = integers ? "%1" : "$w";
  auto text = fmt::format(
      "graph {{\n  input %x : f32[{0}, {1}]\n  weight $w : f32[{1}, {1}]\n  weight $w.scale : f32[{1}]\n"
      "  weight $w.zero_point : i32[{1}]\n",
      kRows, kColumns);
  if (integers)
    text += fmt::format(
        "  %0 = aten::fake_quantize_per_tensor_affine(%x, 0.02, 128, 0, 255) : f32[{0}, {1}]\n"
        "  %1 = aten::fake_quantize_per_channel_affine($w, $w.scale, $w.zero_point, 0, -127, 127) : f32[{1}, {1}]\n",
        kRows, kColumns);
  text += fmt::format("  %2 = aten::linear({}, {}, none) : f32[{}, {}]  # product\n  output %2\n}}\n", x, w, kRows,
                      kColumns);
  Weights weights;
  weights["w"] = {at::full({kColumns, kColumns}, 0.01), true, {}};
  weights["w.scale"] = {at::full({kColumns}, 0.01), false, {}};
  weights["w.zero_point"] = {at::zeros({kColumns}, at::kInt), false, {}};
  return {parse_graph(text), std::move(weights)};
}

double gops(bool integers, const CompileOptions& options) {
  const auto compiled = compile(matrix_product(integers), options);
  const auto x = at::zeros({kRows, kColumns});
  double best = 0;
  for (int turn = 0; turn < 5; ++turn)  // the best: of a limit, disturbances take away only
    for (const auto& step : compiled.profile({x}, 0.05).steps)
      if (step.row.name == "product" && step.ms > 0) best = std::max(best, kGops / (1e-3 * step.ms));
  return best;
}

double copied_gbytes() {
  constexpr std::int64_t kFloats = 16 << 20;  // 64 MiB
  const auto from = at::ones({kFloats});
  auto to = at::empty({kFloats});
  double best = 0;
  for (int run = 0; run < 8; ++run) {
    const auto start = std::chrono::steady_clock::now();
    to.copy_(from);
    const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 1e-9 * 2 * sizeof(float) * static_cast<double>(kFloats) / seconds);
  }
  return best;
}

}  // namespace

double MachineLimits::gops(std::string_view precision) const {
  return precision == "int8" ? int8_gops : precision == "bf16" ? bf16_gops : float32_gops;
}

double MachineLimits::roof(std::string_view precision, double intensity) const {
  return std::min(gops(precision), intensity * gbytes);
}

MachineLimits machine_limits(LatencyTable& table) {
  const at::NoGradGuard no_grad;
  const auto get = [&](const std::string& name, auto&& measure) {
    const auto key = "limit " + name;
    if (!table.find(key)) table.set(key, measure());
    return *table.find(key);
  };
  const CompileOptions options{.threads = table.threads()};
  MachineLimits limits;
  limits.float32_gops = get("float32 Gop/s", [&] { return gops(false, options); });
  limits.bf16_gops = get("bf16 Gop/s", [&] {
    auto half = options;
    half.dtype = at::kBFloat16;
    return gops(false, half);
  });
  limits.int8_gops = get("int8 Gop/s", [&] { return gops(true, options); });
  limits.gbytes = get("GB/s", copied_gbytes);
  return limits;
}

PARE_NAMESPACE_END
