#include "graph/shape_only_call.hpp"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <vector>

#include "pare/graph/op.hpp"

PARE_NAMESPACE_BEGIN

namespace {

template <std::size_t N>
bool among(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Costly at capture's sizes, and nothing but their shapes matters to it.
constexpr std::array<std::string_view, 21> kCostly{"aten::linear",
                                                   "aten::addmm",
                                                   "aten::mm",
                                                   "aten::matmul",
                                                   "aten::bmm",
                                                   "aten::baddbmm",
                                                   "aten::einsum",
                                                   "aten::max_pool2d",
                                                   "aten::avg_pool2d",
                                                   "aten::adaptive_avg_pool2d",
                                                   "aten::lstm",
                                                   "aten::gru",
                                                   "aten::softmax",
                                                   "aten::add",
                                                   "aten::sub",
                                                   "aten::mul",
                                                   "aten::div",
                                                   "aten::cat",
                                                   "aten::mean",
                                                   "aten::layer_norm",
                                                   "aten::scaled_dot_product_attention"};

// Those of them that write to their first argument. Adding to memory that nothing has written costs a fault a page.
constexpr std::array<std::string_view, 4> kInPlace{"aten::add_", "aten::sub_", "aten::mul_", "aten::div_"};

// LibTorch has no meta kernel of a convolution.
constexpr std::array<std::string_view, 3> kConvolutions{"aten::conv1d", "aten::conv2d", "aten::conv3d"};

// `[N, O, spatial…]` of `(input, weight, bias, stride, padding, dilation, groups)`; empty for what has another form:
// no batch, padding by name, or sizes that the kernel itself shall refuse.
std::vector<std::int64_t> convolution_sizes(at::ArrayRef<c10::IValue> arguments) {
  const auto is_list = [&](std::size_t at) { return arguments[at].isIntList() || arguments[at].isSymIntList(); };
  if (arguments.size() < 7 || !is_list(3) || !is_list(4) || !is_list(5)) return {};
  const auto &input = arguments[0].toTensor(), &weight = arguments[1].toTensor();
  if (input.dim() != weight.dim() || input.dim() < 3 || !input.is_floating_point() ||
      input.scalar_type() != weight.scalar_type() || input.size(1) != weight.size(1) * arguments[6].toInt())
    return {};
  const auto entry = [&](std::size_t at, std::size_t d) {
    const auto list = arguments[at].toDimVector();
    return list[list.size() == 1 ? 0 : d];
  };
  std::vector<std::int64_t> sizes{input.size(0), weight.size(0)};
  for (std::size_t d = 0; d + 2 < static_cast<std::size_t>(input.dim()); ++d) {
    const auto axis = static_cast<std::int64_t>(d) + 2;
    const auto room = input.size(axis) + 2 * entry(4, d) - entry(5, d) * (weight.size(axis) - 1) - 1;
    if (room < 0 || entry(3, d) < 1) return {};
    sizes.push_back(room / entry(3, d) + 1);
  }
  return sizes;
}

// Of these, and of their in-place forms, the result is like the first argument.
constexpr std::array<std::string_view, 15> kShapeKeeping{"aten::batch_norm",
                                                         "aten::relu",
                                                         "aten::relu6",
                                                         "aten::hardtanh",
                                                         "aten::gelu",
                                                         "aten::silu",
                                                         "aten::sigmoid",
                                                         "aten::tanh",
                                                         "aten::hardswish",
                                                         "aten::hardsigmoid",
                                                         "aten::leaky_relu",
                                                         "aten::elu",
                                                         "aten::instance_norm",
                                                         "aten::fake_quantize_per_tensor_affine",
                                                         "aten::fake_quantize_per_channel_affine"};

bool keeps_shape(std::string_view base, bool& in_place) {
  in_place = base.ends_with('_');
  if (in_place) base.remove_suffix(1);
  return among(kShapeKeeping, base);
}

// Statistics, scale and shift of a batch norm have an entry for each channel, scales and zero points of a fake-quantize
// one for each entry of its axis; the kernel shall refuse others.
bool fits_channels(std::string_view base, at::ArrayRef<c10::IValue> arguments) {
  const auto& input = arguments[0].toTensor();
  if (base == "aten::fake_quantize_per_channel_affine") {
    const auto axis = arguments[3].toInt();
    return axis >= 0 && axis < input.dim() && arguments[1].toTensor().numel() == input.size(axis) &&
           arguments[2].toTensor().numel() == input.size(axis);
  }
  if (base != "aten::batch_norm") return true;
  return std::all_of(arguments.begin() + 1, arguments.end(), [&](const c10::IValue& value) {
    return !value.isTensor() || !value.toTensor().defined() ||
           (input.dim() > 1 && value.toTensor().numel() == input.size(1));
  });
}

c10::IValue to_meta(const c10::IValue& value, std::optional<c10::Device>& device) {
  const auto meta = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!device) device = tensor.device();
    return at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(at::kMeta).requires_grad(false));
  };
  if (value.isTensor()) return meta(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorList()) list.push_back(meta(tensor));
    return list;
  }
  return value;
}

}  // namespace

bool shape_only_call(const c10::OperatorHandle& handle, torch::jit::Stack& stack, std::size_t count, bool zeros) {
  const auto base = Op(handle).base();
  if (handle.schema().is_mutable() && !base.ends_with('_')) return false;  // `out=` takes its result's size and strides
  const at::NoGradGuard no_grad;
  const auto fresh = [&](const at::Tensor& like, c10::Device device) {
    const auto result =
        at::empty_like(like, like.options().device(device));  // dense where `like` has gaps, as kernels do
    return zeros ? result.zero_() : result;
  };
  torch::jit::Stack results;
  if (bool in_place = false; keeps_shape(base, in_place)) {
    const auto arguments = torch::jit::last(stack, count);
    const auto& first = arguments[0];
    if (!first.isTensor() || !first.toTensor().is_floating_point() || !fits_channels(base, arguments)) return false;
    results.emplace_back(in_place ? first.toTensor() : fresh(first.toTensor(), first.toTensor().device()));
  } else if (among(kConvolutions, base)) {
    const auto arguments = torch::jit::last(stack, count);
    const auto sizes = convolution_sizes(arguments);
    if (sizes.empty()) return false;
    const auto& input = arguments[0].toTensor();
    results.emplace_back(zeros ? at::zeros(sizes, input.options()) : at::empty(sizes, input.options()));
  } else if (const bool writes_first = among(kInPlace, base); writes_first || among(kCostly, base)) {
    std::optional<c10::Device> device;
    const auto& first = torch::jit::peek(stack, 0, count);
    for (std::size_t i = stack.size() - count; i < stack.size(); ++i) results.push_back(to_meta(stack[i], device));
    try {
      handle.callBoxed(&results);
    } catch (const c10::Error&) {
      return false;  // no meta kernel: run it
    }
    for (auto& value : results) {
      if (!value.isTensor() || (value.toTensor().defined() && !value.toTensor().is_floating_point())) return false;
      if (value.toTensor().defined()) value = writes_first ? first.toTensor() : fresh(value.toTensor(), *device);
    }
  } else {
    return false;
  }
  stack.erase(stack.end() - static_cast<std::ptrdiff_t>(count), stack.end());
  for (auto& value : results) stack.push_back(std::move(value));
  return true;
}

PARE_NAMESPACE_END
