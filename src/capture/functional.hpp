#pragma once

#include <optional>
#include <vector>

#include "pare/graph/op.hpp"
#include "pare/graph/operand.hpp"

PARE_NAMESPACE_BEGIN

/// What capture knows of single operators: which write, read, allocate or draw, and the pure form of what does not.

/// `aten::empty` and its kin: memory without contents.
bool is_allocation(const Op& op);
/// Gives a tensor other memory, or another size, in place.
bool moves_memory(const Op& op);
/// Draws from a random generator in its own right (dropout, whose mode decides, is not counted).
bool is_random(const Op& op);
/// Returns something computed from a tensor's values (`item`, `equal`), rather than from its shape or type.
bool reads_values(const Op& op);
/// The out-of-place op for an in-place or `out=` one; `operands` is how many it must take.
std::optional<Op> functional_form(const Op& op, std::size_t operands);

/// How a base is rebuilt when one of its views was written.
struct InverseView {
  Op op;
  std::vector<Operand> operands;  ///< position 0 (and 1, with `takes_base`) to be filled in
  bool takes_base = false;        ///< `(base, child, …)` as `slice_scatter`, or `(child, …)` as a reshape
};
/// For a view op with its operands over a base of the given sizes; empty when the view has no inverse (`expand`).
std::optional<InverseView> inverse_view(const Op& op, const std::vector<Operand>& operands, at::IntArrayRef base_sizes,
                                        std::size_t position);

PARE_NAMESPACE_END
