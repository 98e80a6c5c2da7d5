#include "capture/functional.hpp"

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

}  // namespace

bool is_allocation(const Op& op) {
  static constexpr std::array<std::string_view, 6> names{
      "aten::empty",     "aten::empty_like",        "aten::empty_strided",
      "aten::new_empty", "aten::new_empty_strided", "aten::empty_permuted"};
  return contains(names, op.base()) && op.name().find("out") == std::string::npos;
}

bool moves_memory(const Op& op) {
  static constexpr std::array<std::string_view, 3> names{"aten::set_", "aten::resize_", "aten::resize_as_"};
  return contains(names, op.base());
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

PARE_NAMESPACE_END
