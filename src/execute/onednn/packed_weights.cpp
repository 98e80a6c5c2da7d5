#include "execute/onednn/packed_weights.hpp"

#include <ATen/Functions.h>

#include <algorithm>
#include <cstring>

#include "execute/onednn/layout.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

namespace {

/// Calls `visit(offset in the plain tensor, offset in the packed one)` for every element of a blocked layout: outer
/// strides count blocks, inner blocks are dense and listed from the outermost.
template <class Visit>
void each_element(const memory::desc& layout, const Visit& visit) {
  const auto dims = layout.get_dims(), strides = layout.get_strides(), plain = row_major_strides(dims);
  const auto blocks = layout.get_inner_blks(), of_dim = layout.get_inner_idxs();
  memory::dims index(dims.size(), 0);
  memory::dim count = 1;
  for (const auto size : dims) count *= size;
  for (memory::dim n = 0; n < count; ++n) {
    memory::dim source = 0, target = 0, inner = 1;
    auto outer = index;
    for (std::size_t d = 0; d < dims.size(); ++d) source += index[d] * plain[d];
    for (std::size_t b = blocks.size(); b-- > 0;) {
      const auto d = static_cast<std::size_t>(of_dim[b]);
      target += outer[d] % blocks[b] * inner;
      outer[d] /= blocks[b];
      inner *= blocks[b];
    }
    for (std::size_t d = 0; d < dims.size(); ++d) target += outer[d] * strides[d];
    visit(source, target);
    for (std::size_t d = dims.size(); d-- > 0 && ++index[d] == dims[d];) index[d] = 0;
  }
}

// Recurrent layers may have layouts that only oneDNN can read.
bool is_blocked(const memory& packed) { return packed.get_desc().get_format_kind() == memory::format_kind::blocked; }

}  // namespace

PackedWeights::PackedWeights(at::Tensor plain, memory::dims dims, std::vector<float> scales, at::Tensor bias,
                             at::Tensor sums)
    : plain_(std::move(plain)),
      dims_(std::move(dims)),
      scales_(std::move(scales)),
      bias_(std::move(bias)),
      sums_(std::move(sums)) {
  if (!scales_.empty()) {
    scale_memory_ = memory({{static_cast<memory::dim>(scales_.size())}, memory::data_type::f32, memory::format_tag::a},
                           cpu_engine(), scales_.data());
    if (auto packed = PackedIntegers(plain_); packed.bits() < 8) {
      few_bits_ = std::move(packed);
      plain_ = at::Tensor();
    }
  }
}

memory::data_type PackedWeights::plain_type() const noexcept {
  return is_integer() ? memory::data_type::s8 : memory::data_type::f32;
}

std::vector<memory::desc> PackedWeights::layouts() const {
  const std::lock_guard lock(mutex_);
  std::vector<memory::desc> layouts;
  for (const auto& packed : packed_) layouts.push_back(packed.get_desc());
  return layouts;
}

at::Tensor PackedWeights::plain() const {
  if (plain_.defined()) return plain_;
  if (few_bits_.defined()) return few_bits_.unpack();
  // Compensation for zero points lies behind the weights themselves, so a plain copy can be read back.
  const auto& source = *std::ranges::find_if(packed_, is_blocked);
  const auto type = source.get_desc().get_data_type();
  auto result = at::empty(dims_, type == memory::data_type::s8     ? at::kChar
                                 : type == memory::data_type::bf16 ? at::kBFloat16
                                                                   : at::kFloat);
  const auto bytes = result.element_size();
  const auto* from = static_cast<const char*>(source.get_data_handle());
  auto* to = static_cast<char*>(result.data_ptr());
  each_element(source.get_desc(), [&](memory::dim plain_offset, memory::dim packed_offset) {
    std::memcpy(to + plain_offset * bytes, from + packed_offset * bytes, static_cast<std::size_t>(bytes));
  });
  return is_integer() ? result : result.to(at::kFloat);
}

memory PackedWeights::packed(const memory::desc& wanted) {
  const std::lock_guard lock(mutex_);
  for (const auto& packed : packed_)
    if (packed.get_desc() == wanted) return packed;
  auto source = plain();
  memory plain_memory({dims_, plain_type(), row_major_strides(dims_)}, cpu_engine(), source.data_ptr());
  memory result(wanted, cpu_engine());
  dnnl::primitive_attr attr;
  dnnl::stream stream(cpu_engine());
  dnnl::reorder(dnnl::reorder::primitive_desc(cpu_engine(), plain_memory.get_desc(), cpu_engine(), wanted, attr))
      .execute(stream, plain_memory, result);
  stream.wait();
  packed_.push_back(result);
  if (is_blocked(result)) plain_ = at::Tensor();
  return result;
}

at::Tensor PackedWeights::ordered(at::Tensor (*order)(const at::Tensor&)) {
  const std::lock_guard lock(mutex_);
  if (!ordered_.defined()) ordered_ = order(plain().view(dims_));
  return ordered_;
}

std::size_t PackedWeights::extra_bytes() const {
  return scales_.size() * sizeof(float) + (bias_.defined() ? bias_.nbytes() : 0) +
         (sums_.defined() ? sums_.nbytes() : 0);
}

std::size_t PackedWeights::payload_bytes() const {
  if (few_bits_.defined()) return few_bits_.nbytes() + extra_bytes();
  const std::lock_guard lock(mutex_);
  std::size_t bytes = plain_.defined() ? plain_.nbytes() : packed_.front().get_desc().get_size();
  for (const auto& packed : packed_) bytes = std::min(bytes, packed.get_desc().get_size());
  return bytes + extra_bytes();
}

std::size_t PackedWeights::resident_bytes() const {
  const std::lock_guard lock(mutex_);
  std::size_t bytes = plain_.defined() ? plain_.nbytes() : few_bits_.nbytes();
  if (ordered_.defined()) bytes += ordered_.nbytes();
  for (const auto& packed : packed_) bytes += packed.get_desc().get_size();
  return bytes + extra_bytes();
}

PARE_NAMESPACE_END
