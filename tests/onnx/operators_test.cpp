// Operators that the example models do not use: other runtimes compute them as LibTorch does.
#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/onnx/save.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"
#include "tests/onnx/runtimes.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

using Tensors = std::vector<torch::Tensor>;
namespace F = torch::nn::functional;

/// Largest relative difference of ONNX Runtime from the captured forward at another batch; 1 where it failed.
double difference(const std::string& python, const pare::FlatForward& forward, const Tensors& example,
                  const Tensors& inputs, const pare::CaptureOptions& options = {}) {
  const torch::NoGradGuard no_grad;
  torch::nn::Module module;
  const auto model = pare::capture_forward(module, forward, example, options);
  const ScratchFolder folder;
  pare::onnx::save(model, folder.file("net.onnx"));
  write_samples(folder.file("net.safetensors"), model, inputs, forward(inputs));
  const auto rows = run_models(python, {folder.file("net")}, folder.path().string());
  if (rows.size() != 1 || rows[0]["onnxruntime"].contains("error")) return 1;
  return rows[0]["onnxruntime"]["relative_difference"].get<double>();
}

// By a factor, which the sizes are rounded from.
torch::Tensor resized(const torch::Tensor& x, double factor, const F::InterpolateFuncOptions::mode_t& mode) {
  return F::interpolate(x, F::InterpolateFuncOptions().scale_factor(std::vector<double>{factor, factor}).mode(mode));
}

torch::Tensor images(std::int64_t batch) { return torch::randn({batch, 4, 6, 6}); }

}  // namespace

TEST_CASE("patches, windows and circular borders leave as they are computed here", "[onnx]") {
  const auto python = peers_python();
  if (!python) return;
  torch::manual_seed(5);
  const auto forward = [](const Tensors& in) -> Tensors {
    const auto& x = in[0];
    const auto patches = F::unfold(x, F::UnfoldFuncOptions({3, 2}).padding({1, 0}).stride(2).dilation({1, 2}));
    const auto whole = F::unfold(x, F::UnfoldFuncOptions(3).padding(1));
    return {patches,
            F::fold(whole * 0.5, F::FoldFuncOptions({6, 6}, {3, 3}).padding(1)),
            F::fold(patches, F::FoldFuncOptions({6, 6}, {3, 2}).padding({1, 0}).stride(2).dilation({1, 2})),
            x.unfold(2, 4, 2).unfold(3, 3, 1),
            F::pad(x, F::PadFuncOptions({1, 2, 3, 0}).mode(torch::kCircular)),
            resized(x, 1.4, torch::kNearest),
            resized(x, 1.4, torch::kBilinear),
            resized(x, 0.7, torch::kBilinear),
            resized(x, 2.0, torch::kBicubic)};
  };
  CHECK(difference(*python, forward, {images(2)}, {images(3)}) < 1e-5);
}
