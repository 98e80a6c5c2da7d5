#include "capture/align.hpp"

#include <ATen/Functions.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

namespace {

bool same_number(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// The multilinear function through the samples at the corners of the dims' box, as a reduced fraction.
SymbolicInt interpolate(const std::vector<std::int64_t>& samples, const std::vector<SampledDim>& dims) {
  if (std::all_of(samples.begin(), samples.end(), [&](std::int64_t v) { return v == samples[0]; })) return samples[0];
  const std::size_t corners = samples.size();
  std::vector<std::int64_t> coefficients(corners, 0);  // by the set of dims in the monomial
  std::int64_t divisor = 1;
  for (const auto& dim : dims) divisor *= dim.high - dim.low;
  for (std::size_t corner = 0; corner < corners; ++corner) {
    for (std::size_t monomial = 0; monomial < corners; ++monomial) {
      std::int64_t factor = samples[corner];
      for (std::size_t d = 0; d < dims.size(); ++d) {
        const bool high = corner >> d & 1;
        const bool in_monomial = monomial >> d & 1;
        // (d - low) at the high corner, (high - d) at the low one
        factor *= in_monomial ? (high ? 1 : -1) : (high ? -dims[d].low : dims[d].high);
      }
      coefficients[monomial] += factor;
    }
  }
  std::int64_t common = divisor;
  for (const auto coefficient : coefficients) common = std::gcd(common, coefficient);
  if (divisor < 0) common = -common;
  std::vector<SymbolicInt::Term> terms;
  for (std::size_t monomial = 0; monomial < corners; ++monomial) {
    SymbolicInt::Term term{coefficients[monomial] / common, {}};
    for (std::uint32_t d = 0; d < dims.size(); ++d)
      if (monomial >> d & 1) term.dims.push_back(d);
    terms.push_back(std::move(term));
  }
  return SymbolicInt(std::move(terms), divisor / common);
}

struct Aligner {
  const std::vector<const Trace*>& traces;
  const std::vector<SampledDim>& dims;

  [[noreturn]] void structure_differs(std::size_t call) const {
    const auto name = [&](const Trace& trace) {
      return call < trace.calls.size() ? trace.calls[call].op.name() : std::string("the end");
    };
    std::string other = name(*traces.front());
    for (const auto* trace : traces)
      if (name(*trace) != name(*traces.front())) other = name(*trace);
    fail("pare.capture.131", traces.front()->module_at(call),
         "the forward makes other calls at another size ({} against {}): fix the sizes or name the dims that vary",
         name(*traces.front()), other);
  }

  Operand operand(std::size_t call, std::size_t position) const {
    const auto& first = traces.front()->calls[call].operands[position];
    std::vector<const Operand*> samples;
    for (const auto* trace : traces) {
      samples.push_back(&trace->calls[call].operands[position]);
      if (samples.back()->storage().index() != first.storage().index()) structure_differs(call);
    }
    if (first.get<SymbolicInt>()) {
      std::vector<std::int64_t> values;
      for (const auto* sample : samples) values.push_back(*sample->integer());
      return interpolate(values, dims);
    }
    if (const auto* list = first.get<Operand::Ints>()) {
      Operand::Ints result;
      for (std::size_t i = 0; i < list->size(); ++i) {
        std::vector<std::int64_t> values;
        for (const auto* sample : samples) {
          const auto& other = *sample->get<Operand::Ints>();
          if (other.size() != list->size()) structure_differs(call);
          values.push_back(*other[i].constant());
        }
        result.push_back(interpolate(values, dims));
      }
      return result;
    }
    for (const auto* sample : samples) {
      check_numbers(call, first, *sample);
      if (differs<ValueId, Operand::Values, Flag, Operand::Bools, std::string>(first, *sample)) structure_differs(call);
    }
    return first;
  }

  // Whether both hold another of the kinds given.
  template <class... Kinds>
  static bool differs(const Operand& first, const Operand& sample) {
    return ((first.get<Kinds>() && *sample.get<Kinds>() != *first.get<Kinds>()) || ...);
  }

  void check_numbers(std::size_t call, const Operand& first, const Operand& sample) const {
    const auto check = [&](double number, double other) {
      if (!same_number(number, other))
        fail("pare.capture.133", traces.front()->module_at(call),
             "{} is given a number computed from a size ({} and {}); compute it with tensor ops or fix the sizes",
             traces.front()->calls[call].op.name(), number, other);
    };
    if (const auto* number = first.get<double>()) check(*number, *sample.get<double>());
    if (const auto* list = first.get<Operand::Doubles>()) {
      const auto& others = *sample.get<Operand::Doubles>();
      if (others.size() != list->size()) structure_differs(call);
      for (std::size_t i = 0; i < list->size(); ++i) check((*list)[i], others[i]);
    }
  }

  void check_constant(std::size_t value) const {
    const auto& first = traces.front()->values[value];
    if (first.origin != Trace::Origin::Constant) return;
    for (const auto* trace : traces) {
      const auto& other = trace->values[value];
      if (other.origin == Trace::Origin::Constant && same_tensor(other.constant, first.constant)) continue;
      std::size_t call = 0;
      for (; call < traces.front()->calls.size(); ++call) {
        bool reads = false;
        for (const auto& operand : traces.front()->calls[call].operands)
          operand.each_value([&](ValueId id) { reads |= index(id) == value; });
        if (reads) break;
      }
      fail("pare.capture.132", traces.front()->module_at(call),
           "{} reads a tensor of {} elements that no dispatcher call produced and that changes from run to run (raw "
           "data pointers, from_blob or another thread); make it with tensor ops or register it as a buffer",
           call < traces.front()->calls.size() ? traces.front()->calls[call].op.name() : "the output",
           first.constant.numel());
    }
  }
};

}  // namespace

bool same_tensor(const at::Tensor& a, const at::Tensor& b) {
  if (a.is_same(b)) return true;
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  return a.is_floating_point() ? at::allclose(a, b, 0.0, 0.0, /*equal_nan=*/true) : at::equal(a, b);
}

SymbolicTrace align_sizes(const std::vector<const Trace*>& traces, const std::vector<SampledDim>& dims) {
  const Aligner aligner{traces, dims};
  SymbolicTrace result{*traces.front(), {}};
  for (std::size_t call = 0; call < result.trace.calls.size(); ++call)
    for (const auto* trace : traces)
      if (call >= trace->calls.size() || !(trace->calls[call].op == result.trace.calls[call].op) ||
          trace->calls[call].operands.size() != result.trace.calls[call].operands.size() ||
          trace->calls[call].outputs.size() != result.trace.calls[call].outputs.size())
        aligner.structure_differs(call);
  for (std::size_t call = 0; call < result.trace.calls.size(); ++call)
    for (const auto* trace : traces)
      if (trace->calls[call].guard != result.trace.calls[call].guard)
        fail("pare.capture.131", traces.front()->module_at(call),
             "{} reads another value at another size, and the forward may do other things then: fix the sizes or name "
             "the dims that vary",
             result.trace.calls[call].op.name());
  for (const auto* trace : traces)
    if (trace->calls.size() != result.trace.calls.size() || trace->outputs != result.trace.outputs)
      aligner.structure_differs(result.trace.calls.size());
  for (std::size_t value = 0; value < result.trace.values.size(); ++value) {
    aligner.check_constant(value);
    for (const auto* trace : traces)
      if (trace->values[value].sizes.size() != result.trace.values[value].sizes.size())
        fail("pare.capture.131", "", "a tensor has {} dimensions at one size and {} at another",
             result.trace.values[value].sizes.size(), trace->values[value].sizes.size());
    std::vector<SymbolicInt> sizes;
    for (std::size_t d = 0; d < result.trace.values[value].sizes.size(); ++d) {
      std::vector<std::int64_t> samples;
      for (const auto* trace : traces) samples.push_back(trace->values[value].sizes.at(d));
      sizes.push_back(interpolate(samples, dims));
    }
    result.sizes.push_back(std::move(sizes));
  }
  for (std::size_t call = 0; call < result.trace.calls.size(); ++call)
    for (std::size_t i = 0; i < result.trace.calls[call].operands.size(); ++i)
      result.trace.calls[call].operands[i] = aligner.operand(call, i);
  return result;
}

PARE_NAMESPACE_END
