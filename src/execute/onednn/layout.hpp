#pragma once

#include <ATen/core/Tensor.h>

#include "execute/onednn/onednn.hpp"

PARE_NAMESPACE_BEGIN

/// Strides of a dense tensor whose last dim is innermost.
dnnl::memory::dims row_major_strides(const dnnl::memory::dims& dims);
/// Strides of a dense tensor whose channels (dim 1) are innermost.
dnnl::memory::dims channels_last_strides(const dnnl::memory::dims& dims);
/// Whether elements lie at strides, without blocks.
bool is_plain(const dnnl::memory::desc& layout);
/// Whether elements lie without gaps and none twice: in blocks, or at strides that leave nothing out.
bool is_dense(const dnnl::memory::desc& layout);
/// Whether memory in this layout reads as row-major: strides of dims of size 1 do not count, nor does a channel block
/// with nothing behind it.
bool reads_row_major(const dnnl::memory::desc& layout);
/// The same places with another element type; blocked layouts become channels-last.
dnnl::memory::desc with_type(const dnnl::memory::desc& layout, dnnl::memory::data_type type);
bool is_integer(dnnl::memory::data_type type);
c10::ScalarType torch_type(dnnl::memory::data_type type);
dnnl::memory::data_type onednn_type(c10::ScalarType type);

PARE_NAMESPACE_END
