#include "execute/onednn/layout.hpp"

#include <algorithm>

PARE_NAMESPACE_BEGIN

using dnnl::memory;

memory::dims row_major_strides(const memory::dims& dims) {
  memory::dims strides(dims.size(), 1);
  for (std::size_t i = dims.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<memory::dim>(dims[i], 1);
  return strides;
}

memory::dims channels_last_strides(const memory::dims& dims) {
  if (dims.size() < 3) return row_major_strides(dims);
  memory::dims strides(dims.size(), 1);
  memory::dim stride = dims[1];
  for (std::size_t i = dims.size(); i-- > 2;) {
    strides[i] = stride;
    stride *= dims[i];
  }
  strides[0] = stride;
  return strides;
}

bool is_plain(const memory::desc& layout) {
  return layout.get_format_kind() == memory::format_kind::blocked && layout.get_inner_nblks() == 0;
}

bool is_dense(const memory::desc& layout) {
  std::size_t bytes = memory::data_type_size(layout.get_data_type());
  for (const auto size : layout.get_padded_dims()) bytes *= static_cast<std::size_t>(size);
  return layout.get_size() == bytes;
}

bool reads_row_major(const memory::desc& layout) {
  if (layout.get_format_kind() != memory::format_kind::blocked) return false;
  const auto dims = layout.get_dims(), strides = layout.get_strides();
  if (layout.get_padded_dims() != dims) return false;
  auto inner = memory::dims(dims.size(), 1);
  if (layout.get_inner_nblks() == 1) {
    const auto d = static_cast<std::size_t>(layout.get_inner_idxs()[0]);
    for (std::size_t i = d + 1; i < dims.size(); ++i)
      if (dims[i] != 1) return false;
    inner[d] = layout.get_inner_blks()[0];
  } else if (layout.get_inner_nblks() > 1) {
    return false;
  }
  memory::dim expected = 1;
  for (std::size_t d = dims.size(); d-- > 0;) {
    expected *= inner[d];
    const auto outer = dims[d] / inner[d];
    if (outer != 1 && strides[d] != expected) return false;
    expected *= outer;
  }
  return true;
}

memory::desc with_type(const memory::desc& layout, memory::data_type type) {
  const auto dims = layout.get_dims();
  return {dims, type, is_plain(layout) ? layout.get_strides() : channels_last_strides(dims)};
}

bool is_integer(memory::data_type type) { return type == memory::data_type::u8 || type == memory::data_type::s8; }

c10::ScalarType torch_type(memory::data_type type) {
  switch (type) {
    case memory::data_type::u8:
      return c10::ScalarType::Byte;
    case memory::data_type::s8:
      return c10::ScalarType::Char;
    case memory::data_type::bf16:
      return c10::ScalarType::BFloat16;
    case memory::data_type::s32:
      return c10::ScalarType::Int;
    default:
      return c10::ScalarType::Float;
  }
}

memory::data_type onednn_type(c10::ScalarType type) {
  return type == c10::ScalarType::BFloat16 ? memory::data_type::bf16 : memory::data_type::f32;
}

PARE_NAMESPACE_END
