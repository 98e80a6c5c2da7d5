#include "capture/functional.hpp"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <string_view>

PARE_NAMESPACE_BEGIN

namespace {

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::optional<c10::OperatorHandle> find(const std::string& base, const std::string& overload) {
  return c10::Dispatcher::singleton().findSchema({base, overload});
}

std::int64_t integer_or(const std::vector<Operand>& operands, std::size_t position, std::int64_t fallback) {
  return position < operands.size() ? operands[position].integer().value_or(fallback) : fallback;
}

InverseView slice_scatter(std::int64_t dim, std::int64_t start, std::int64_t end, std::int64_t step) {
  return {Op("aten::slice_scatter"), {Operand(), Operand(), dim, start, end, step}, true};
}

InverseView reshape_to(at::IntArrayRef sizes) {
  Operand::Ints target;
  for (const auto size : sizes) target.emplace_back(size);
  return {Op("aten::reshape"), {Operand(), target}, false};
}

InverseView inverse_permute(const std::vector<std::int64_t>& dims) {
  Operand::Ints inverse(dims.size());
  const auto rank = static_cast<std::int64_t>(dims.size());
  for (std::int64_t i = 0; i < rank; ++i) {
    const auto dim = dims[static_cast<std::size_t>(i)];
    inverse[static_cast<std::size_t>(dim < 0 ? dim + rank : dim)] = SymbolicInt(i);
  }
  return {Op("aten::permute"), {Operand(), inverse}, false};
}

// The part of `dim` that output `position` of a chunk or split covers.
std::optional<InverseView> inverse_split(const Op& op, const std::vector<Operand>& operands, at::IntArrayRef sizes,
                                         std::size_t position) {
  const auto which = static_cast<std::int64_t>(position);
  auto dim = integer_or(operands, 2, 0);
  if (dim < 0) dim += static_cast<std::int64_t>(sizes.size());
  const auto whole = sizes[static_cast<std::size_t>(dim)];
  if (op.base() == "aten::split_with_sizes" || op.name() == "aten::split.sizes") {
    const auto parts = operands[1].integers();
    if (!parts) return std::nullopt;
    std::int64_t start = 0;
    for (std::size_t i = 0; i < position; ++i) start += (*parts)[i];
    return slice_scatter(dim, start, start + (*parts)[position], 1);
  }
  auto part = integer_or(operands, 1, 1);
  if (op.base() == "aten::chunk") part = (whole + part - 1) / part;
  return slice_scatter(dim, which * part, std::min(whole, (which + 1) * part), 1);
}

constexpr std::array<std::string_view, 16> kReshapes{
    "aten::view",         "aten::reshape",    "aten::flatten",        "aten::unflatten",
    "aten::unsqueeze",    "aten::squeeze",    "aten::alias",          "aten::detach",
    "aten::to",           "aten::contiguous", "aten::view_as",        "aten::reshape_as",
    "aten::_unsafe_view", "aten::dropout",    "aten::_reshape_alias", "aten::ravel"};

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
constexpr std::array<std::string_view, 13> kShapeKeeping{
    "aten::batch_norm", "aten::relu",    "aten::relu6",        "aten::hardtanh",  "aten::gelu",
    "aten::silu",       "aten::sigmoid", "aten::tanh",         "aten::hardswish", "aten::hardsigmoid",
    "aten::leaky_relu", "aten::elu",     "aten::instance_norm"};

bool keeps_shape(std::string_view base, bool& in_place) {
  in_place = base.ends_with('_');
  if (in_place) base.remove_suffix(1);
  return contains(kShapeKeeping, base);
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

bool is_allocation(const Op& op) {
  static constexpr std::array<std::string_view, 6> names{
      "aten::empty",     "aten::empty_like",        "aten::empty_strided",
      "aten::new_empty", "aten::new_empty_strided", "aten::empty_permuted"};
  return contains(names, op.base()) && op.name().find("out") == std::string::npos;
}

bool is_random(const Op& op) {
  static constexpr std::array<std::string_view, 16> modes{"aten::dropout",
                                                          "aten::feature_dropout",
                                                          "aten::alpha_dropout",
                                                          "aten::feature_alpha_dropout",
                                                          "aten::native_dropout",
                                                          "aten::scaled_dot_product_attention",
                                                          "aten::lstm",
                                                          "aten::gru",
                                                          "aten::rnn_tanh",
                                                          "aten::rnn_relu",
                                                          "aten::rrelu",
                                                          "aten::multi_head_attention",
                                                          "aten::_scaled_dot_product_attention_math",
                                                          "aten::dropout_",
                                                          "aten::feature_dropout_",
                                                          "aten::alpha_dropout_"};
  return op.handle().hasTag(at::Tag::nondeterministic_seeded) && !contains(modes, op.base());
}

bool reads_values(const Op& op) {
  static constexpr std::array<std::string_view, 6> names{"aten::item",       "aten::_local_scalar_dense",
                                                         "aten::is_nonzero", "aten::equal",
                                                         "aten::allclose",   "aten::__contains__"};
  return contains(names, op.base());
}

std::optional<Op> functional_form(const Op& op, std::size_t operands) {
  const std::string base(op.base());
  const auto dot = op.name().find('.');
  const std::string overload = dot == std::string::npos ? std::string() : op.name().substr(dot + 1);
  const auto fits = [&](const std::optional<c10::OperatorHandle>& handle) {
    return handle && handle->schema().arguments().size() <= operands;
  };
  if (base == "aten::normal_") return Op("aten::normal_functional");
  if (base == "aten::bernoulli_" && overload == "float") return Op("aten::bernoulli.p");
  if (base == "aten::zero_") return Op("aten::zeros_like");
  if (base == "aten::set_" || base == "aten::resize_" || base == "aten::resize_as_") return std::nullopt;
  if (base.back() == '_') {
    const auto handle = find(base.substr(0, base.size() - 1), overload);
    if (fits(handle)) return Op(*handle);
    return std::nullopt;
  }
  const auto stem = overload.size() > 4 && overload.ends_with("_out") ? overload.substr(0, overload.size() - 4) : "";
  for (const auto& candidate : {stem, std::string("Tensor"), std::string()})
    if (const auto handle = find(base, candidate); fits(handle) && candidate != overload) return Op(*handle);
  return std::nullopt;
}

std::optional<InverseView> inverse_view(const Op& op, const std::vector<Operand>& operands, at::IntArrayRef base_sizes,
                                        std::size_t position) {
  const auto base = op.base();
  if (contains(kReshapes, base)) return reshape_to(base_sizes);
  if (base == "aten::slice")
    return InverseView{
        Op("aten::slice_scatter"), {Operand(), Operand(), operands[1], operands[2], operands[3], operands[4]}, true};
  if (base == "aten::narrow") {
    const auto start = integer_or(operands, 2, 0);
    return slice_scatter(integer_or(operands, 1, 0), start, start + integer_or(operands, 3, 0), 1);
  }
  if (base == "aten::select")
    return InverseView{Op("aten::select_scatter"), {Operand(), Operand(), operands[1], operands[2]}, true};
  if (base == "aten::unbind")
    return InverseView{
        Op("aten::select_scatter"), {Operand(), Operand(), operands[1], static_cast<std::int64_t>(position)}, true};
  if (base == "aten::transpose")
    return InverseView{Op("aten::transpose.int"), {Operand(), operands[1], operands[2]}, false};
  if (base == "aten::t") return InverseView{Op("aten::t"), {Operand()}, false};
  if (base == "aten::permute") {
    const auto dims = operands[1].integers();
    return dims ? std::optional(inverse_permute(*dims)) : std::nullopt;
  }
  if (base == "aten::chunk" || base == "aten::split" || base == "aten::split_with_sizes")
    return inverse_split(op, operands, base_sizes, position);
  if (base == "aten::diagonal")
    return InverseView{
        Op("aten::diagonal_scatter"), {Operand(), Operand(), operands[1], operands[2], operands[3]}, true};
  return std::nullopt;
}

bool shape_only_call(const c10::OperatorHandle& handle, torch::jit::Stack& stack, std::size_t count, bool zeros) {
  const auto base = Op(handle).base();
  const at::NoGradGuard no_grad;
  const auto fresh = [&](const at::Tensor& like, c10::Device device) {
    const auto options = like.options().device(device);
    const auto result = at::empty_strided(like.sizes(), like.strides(), options);
    return zeros ? result.zero_() : result;
  };
  torch::jit::Stack results;
  if (bool in_place = false; keeps_shape(base, in_place)) {
    const auto& first = stack[stack.size() - count];
    if (!first.isTensor() || !first.toTensor().is_floating_point()) return false;
    results.emplace_back(in_place ? first.toTensor() : fresh(first.toTensor(), first.toTensor().device()));
  } else if (contains(kConvolutions, base)) {
    const auto arguments = torch::jit::last(stack, count);
    const auto sizes = convolution_sizes(arguments);
    if (sizes.empty()) return false;
    const auto& input = arguments[0].toTensor();
    results.emplace_back(zeros ? at::zeros(sizes, input.options()) : at::empty(sizes, input.options()));
  } else if (contains(kCostly, base)) {
    std::optional<c10::Device> device;
    for (std::size_t i = stack.size() - count; i < stack.size(); ++i) results.push_back(to_meta(stack[i], device));
    try {
      handle.callBoxed(&results);
    } catch (const c10::Error&) {
      return false;  // no meta kernel: run it
    }
    for (auto& value : results) {
      if (!value.isTensor() || (value.toTensor().defined() && !value.toTensor().is_floating_point())) return false;
      if (value.toTensor().defined()) value = fresh(value.toTensor(), *device);
    }
  } else {
    return false;
  }
  stack.erase(stack.end() - static_cast<std::ptrdiff_t>(count), stack.end());
  for (auto& value : results) stack.push_back(std::move(value));
  return true;
}

PARE_NAMESPACE_END
