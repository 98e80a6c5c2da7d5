// Linear layers whose weights stay integers: products row by row, or tile by tile as numbers.
#include <ATen/Functions.h>

#include <algorithm>

#include "execute/onednn/layout.hpp"
#include "execute/onednn/plan_builder.hpp"

PARE_NAMESPACE_BEGIN

using dnnl::memory;
using desc = memory::desc;

namespace {

constexpr memory::dim kMostDots = 8;      // inputs beyond which numbers made once are cheaper
constexpr memory::dim kRowsOfTile = 128;  // outputs whose weights are numbers at a time

/// `source [rows, features]` times a tile of the weight, as numbers, into columns of `result [rows, outputs]`.
struct TileProduct {
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;

  TileProduct(const IntegerRows& weights, memory::dim rows, memory::dim count) {
    const auto type = memory::data_type::f32;
    auto attr = with_scratchpad();
    const desc source({rows, weights.features}, type, {weights.features, 1}),
        tile({weights.features, count}, type, {1, weights.features}), result({rows, count}, type, {weights.outputs, 1}),
        bias({1, count}, type, {count, 1});
    description = weights.bias.defined() ? dnnl::matmul::primitive_desc(cpu_engine(), source, tile, bias, result, attr)
                                         : dnnl::matmul::primitive_desc(cpu_engine(), source, tile, result, attr);
    primitive = dnnl::matmul(description);
  }

  void run(const dnnl::stream& stream, const IntegerRows& weights, memory::dim first, char* source, char* tile,
           char* result, char* scratch) const {
    const auto& engine = cpu_engine();
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, memory(description.src_desc(), engine, source)},
        {DNNL_ARG_WEIGHTS, memory(description.weights_desc(), engine, tile)},
        {DNNL_ARG_DST, memory(description.dst_desc(), engine, result + first * memory::dim{sizeof(float)})},
        {DNNL_ARG_SCRATCHPAD, memory(description.scratchpad_desc(), engine, scratch)}};
    if (weights.bias.defined())
      arguments.emplace(DNNL_ARG_BIAS, memory(description.bias_desc(), engine, weights.bias.data_ptr<float>() + first));
    primitive.execute(stream, arguments);
  }
};

desc bytes_of(std::size_t bytes) {
  return {{static_cast<memory::dim>(std::max<std::size_t>(bytes, 1))}, memory::data_type::u8, memory::format_tag::a};
}

}  // namespace

void PlanBuilder::emit_integer_rows(const ProgramStep& step) {
  const auto& weights = *step.rows;
  const auto output = step.outputs[0];
  const auto dims = sizes(output);
  memory::dim rows = 1;
  for (std::size_t d = 0; d + 1 < dims.size(); ++d) rows *= dims[d];
  const auto source = row_major(step.inputs[0], data_type::f32);
  const auto result = allocate(desc(dims, data_type::f32, row_major_strides(dims)));
  const bool by_dots = rows <= kMostDots;
  if (by_dots) {
    const auto scratch = allocate(bytes_of(weights.scratch(rows) * sizeof(float)));
    call(
        [=, held = step.rows](PlanInstance& instance) {
          held->multiply(reinterpret_cast<const float*>(instance.pointer(source.buffer) + source.offset), rows,
                         reinterpret_cast<float*>(instance.pointer(scratch.buffer)),
                         reinterpret_cast<float*>(instance.pointer(result.buffer)));
        },
        {source.buffer, result.buffer, scratch.buffer});
  } else {
    const auto whole = std::min(kRowsOfTile, weights.outputs), rest = weights.outputs % whole;
    const TileProduct product(weights, rows, whole), last(weights, rows, rest == 0 ? whole : rest);
    const auto tile = allocate(bytes_of(static_cast<std::size_t>(whole * weights.features) * sizeof(float)));
    const auto scratch = allocate(bytes_of(
        std::max(product.description.scratchpad_desc().get_size(), last.description.scratchpad_desc().get_size())));
    call(
        [=, held = step.rows](PlanInstance& instance) {
          const dnnl::stream stream(cpu_engine());
          auto* numbers = instance.pointer(tile.buffer);
          for (memory::dim first = 0; first < held->outputs; first += whole) {
            const auto count = std::min(whole, held->outputs - first);
            held->numbers(first, count, reinterpret_cast<float*>(numbers));
            (count == whole ? product : last)
                .run(stream, *held, first, instance.pointer(source.buffer) + source.offset, numbers,
                     instance.pointer(result.buffer), instance.pointer(scratch.buffer));
          }
        },
        {source.buffer, result.buffer, tile.buffer, scratch.buffer});
  }
  row(step, std::string(weights.bits == 4 ? "int4_" : "int8_") + (by_dots ? "rows" : "tiles"), "float32");
  store(output, result);
  quantize_result(output);
}

PARE_NAMESPACE_END
