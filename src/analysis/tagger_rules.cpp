#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "tagger.hpp"

PARE_NAMESPACE_BEGIN

const std::map<std::string, Tagger::Rule, std::less<>>& Tagger::rules() {
  static const auto table = [] {
    std::map<std::string, Rule, std::less<>> all;
    const auto add = [&](Rule rule, std::initializer_list<const char*> names) {
      for (const auto* name : names) all[std::string("aten::") + name] = rule;
    };
    add(&Tagger::convolution, {"conv1d", "conv2d", "conv3d", "convolution", "_convolution"});
    add(&Tagger::transposed_convolution, {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"});
    add(&Tagger::linear, {"linear"});
    add(&Tagger::addmm, {"addmm", "baddbmm", "addbmm"});
    add(&Tagger::matmul, {"matmul", "mm", "bmm", "mv"});
    add(&Tagger::attention, {"scaled_dot_product_attention"});
    add(&Tagger::channel_norm, {"batch_norm", "instance_norm"});
    add(&Tagger::group_norm, {"group_norm"});
    add(&Tagger::layer_norm, {"layer_norm", "rms_norm", "native_layer_norm"});
    add(&Tagger::prelu, {"prelu"});
    add(&Tagger::softmax, {"softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "sort", "glu"});
    add(&Tagger::reduction, {"mean", "sum", "amax", "amin", "norm", "linalg_vector_norm", "var", "std", "logsumexp"});
    add(&Tagger::spatial,
        {"max_pool1d",          "max_pool2d",          "max_pool3d",           "avg_pool1d",
         "avg_pool2d",          "avg_pool3d",          "adaptive_avg_pool1d",  "adaptive_avg_pool2d",
         "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",  "adaptive_max_pool3d",
         "upsample_nearest1d",  "upsample_nearest2d",  "upsample_nearest3d",   "upsample_linear1d",
         "upsample_bilinear2d", "upsample_bicubic2d",  "upsample_trilinear3d", "max_pool2d_with_indices",
         "reflection_pad1d",    "reflection_pad2d",    "replication_pad1d",    "replication_pad2d",
         "grid_sampler"});
    add(&Tagger::embedding, {"embedding"});
    add(&Tagger::recurrent, {"lstm", "gru", "rnn_tanh", "rnn_relu"});
    add(&Tagger::pad, {"constant_pad_nd", "pad", "_pad_enum"});
    add(&Tagger::scatter, {"slice_scatter"});
    add(&Tagger::fill, {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full"});
    add(&Tagger::cast, {"to", "_to_copy", "type_as"});
    add(&Tagger::channel_shuffle, {"channel_shuffle"});
    add(&Tagger::fake_quantize_channels, {"fake_quantize_per_channel_affine"});
    add(&Tagger::elementwise, {"dropout",       "feature_dropout",
                               "alpha_dropout", "feature_alpha_dropout",
                               "contiguous",    "clone",
                               "alias",         "detach",
                               "relu6",         "hardtanh",
                               "expand_as",     "zeros_like",
                               "ones_like",     "full_like",
                               "empty_like",    "masked_fill",
                               "where",         "lift_fresh",
                               "rsub",          "true_divide",
                               "float_power",   "fake_quantize_per_tensor_affine",
                               "selu",          "celu",
                               "mish",          "log_sigmoid",
                               "softplus",      "square",
                               "threshold",     "hardshrink",
                               "softshrink",    "logit",
                               "clamp",         "clamp_min",
                               "clamp_max",     "multiply",
                               "divide",        "subtract"});
    all["pare::training_select"] = &Tagger::elementwise;
    return all;
  }();
  return table;
}

// ---- Pieces

Tagged Tagger::in(const Node& node, std::size_t position) const {
  const auto id = node.input(position);
  return id == kNoValue ? Tagged() : values_[index(id)];
}

void Tagger::freeze(const std::vector<std::int64_t>& tags, const std::string& why, bool hidden) {
  if (forcing_ || tags.empty()) return;
  const auto reason = tags_.reason(why, hidden);
  for (const auto tag : tags)
    if (tag >= 0) tags_.freeze(tag, reason);
}

void Tagger::freeze(const at::Tensor& layer, const std::string& why, bool hidden) {
  const auto cut = compressed(layer);
  const auto* data = cut.const_data_ptr<std::int64_t>();
  freeze(std::vector<std::int64_t>(data, data + cut.numel()), why, hidden);
}

void Tagger::freeze_window(const Tagged& weight) {
  for (const auto& layer : weight.layers)
    for (std::int64_t axis = 2; axis < layer.dim(); ++axis)
      if (varies(layer, axis)) freeze(layer, "positions in the window of a convolution", true);
}

void Tagger::unite(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b, const Node& node) {
  if (a.size() != b.size()) {
    freeze(a, where(node) + " does not see them one by one");
    freeze(b, where(node) + " does not see them one by one");
    return;
  }
  const bool bare = std::ranges::all_of(a, [](auto tag) { return tag < 0; }) ||
                    std::ranges::all_of(b, [](auto tag) { return tag < 0; });
  std::optional<std::int32_t> reason;  // few need one
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] >= 0 && b[i] >= 0) {
      tags_.unite(a[i], b[i]);
    } else if (a[i] >= 0 || b[i] >= 0) {
      if (forcing_) continue;
      if (!reason)
        reason = tags_.reason(where(node) + (bare ? " reads a tensor without channels that could be removed"
                                                  : " reads them beside entries that cannot be removed"));
      tags_.freeze(std::max(a[i], b[i]), *reason);
    }
  }
}

void Tagger::unite(const at::Tensor& a, const at::Tensor& b, const Node& node) {
  const auto axes = varying_axes(a);
  const bool alike = axes == varying_axes(b);
  if (forcing_ && !alike) return;  // which of the axes is the channels' is not known yet
  if (alike && axes.size() == 1) return unite(tags_along(a, axes[0]), tags_along(b, axes[0]), node);
  const auto both = at::broadcast_tensors({a, b});
  auto x = both[0], y = both[1];
  for (std::int64_t k = 0; k < x.dim(); ++k)
    if (x.size(k) > 1 && x.stride(k) == 0 && y.stride(k) == 0) {
      x = x.narrow(k, 0, 1);
      y = y.narrow(k, 0, 1);
    }
  x = x.contiguous();
  y = y.contiguous();
  const auto *p = x.const_data_ptr<std::int64_t>(), *q = y.const_data_ptr<std::int64_t>();
  unite(std::vector<std::int64_t>(p, p + x.numel()), std::vector<std::int64_t>(q, q + y.numel()), node);
}

// Unites all tags that share their position on the first axes.
void Tagger::unite_all(const at::Tensor& layer, std::int64_t keep_axes_before) {
  auto cut = compressed(layer);
  const auto rest = cut.dim() == keep_axes_before ? cut.unsqueeze(-1) : cut.flatten(keep_axes_before);
  const auto rows = rest.reshape({-1, rest.size(-1)}).contiguous();
  const auto* data = rows.const_data_ptr<std::int64_t>();
  for (std::int64_t r = 0; r < rows.size(0); ++r)
    for (std::int64_t c = 1; c < rows.size(1); ++c) {
      const auto a = data[r * rows.size(1)], b = data[r * rows.size(1) + c];
      if (a >= 0 && b >= 0) tags_.unite(a, b);
    }
}

// The tags of a value along its channels; entries are -1 where it has none. What varies along other axes as well is
// frozen, because the rule could not tell what would be left.
std::vector<std::int64_t> Tagger::channel(const Node& node, const Tagged& value, std::int64_t axis) {
  if (axis < 0) axis += value.rank();
  for (const auto& layer : value.layers) {
    if (!varies(layer, axis)) continue;
    if (varying_axes(layer).size() == 1) return tags_along(layer, axis);
    // What is read as one channel goes as one, though several lie in it (as after a pixel shuffle).
    const auto rows = compressed(layer).movedim(axis, 0).flatten(1).contiguous();
    const auto* tags = rows.const_data_ptr<std::int64_t>();
    std::vector<std::int64_t> channels;
    for (std::int64_t row = 0; row < rows.size(0); ++row, tags += rows.size(1)) {
      const std::vector<std::int64_t> own(tags, tags + rows.size(1));
      const bool bare = std::ranges::any_of(own, [](auto tag) { return tag < 0; });
      if (bare) freeze(own, where(node) + " reads them beside entries that cannot be removed");
      for (const auto tag : own)
        if (!bare) tags_.unite(own.front(), tag);
      channels.push_back(bare ? -1 : tags_.find(own.front()));
    }
    return channels;
  }
  return std::vector<std::int64_t>(static_cast<std::size_t>(value.sizes[static_cast<std::size_t>(axis)]), -1);
}

void Tagger::set_channels(const Node& node, const std::vector<std::int64_t>& tags, std::int64_t axis) {
  auto& result = out(node);
  if (axis < 0) axis += result.rank();
  if (std::ranges::all_of(tags, [](auto tag) { return tag < 0; })) return;
  if (static_cast<std::int64_t>(tags.size()) == result.sizes[static_cast<std::size_t>(axis)])
    result.layers.push_back(normalized(laid_along(tags, axis, result.sizes)));
}

// A vector of weights as an operand that broadcasts along one axis.
Tagged Tagger::weight_along(const Tagged& weight, std::int64_t axis, std::int64_t rank) const {
  Tagged result;
  if (weight.rank() != 1) return result;
  result.sizes.assign(static_cast<std::size_t>(rank), 1);
  result.sizes[static_cast<std::size_t>(axis)] = weight.sizes[0];
  for (const auto& layer : weight.layers) result.layers.push_back(layer.view(result.sizes));
  return result;
}

std::vector<at::Tensor> Tagger::meet(const Node& node, const std::vector<Tagged>& operands,
                                     const std::vector<std::int64_t>& sizes) {
  const auto rank = static_cast<std::int64_t>(sizes.size());
  std::vector<std::vector<at::Tensor>> layers(operands.size());
  const auto size_of = [&](const Tagged& operand, std::int64_t axis) {
    const auto own = axis - (rank - operand.rank());
    return own < 0 ? std::int64_t{1} : operand.sizes[static_cast<std::size_t>(own)];
  };
  for (std::size_t i = 0; i < operands.size(); ++i)
    for (const auto& layer : operands[i].layers) layers[i].push_back(layer.expand(sizes));
  std::vector<at::Tensor> result;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    for (const auto& layer : layers[i]) {
      const auto axes = varying_axes(layer);
      const auto shares = [&](const at::Tensor& other) {
        return std::ranges::any_of(axes, [&](auto axis) { return varies(other, axis); });
      };
      bool stays = true;
      for (std::size_t j = 0; j < operands.size(); ++j) {
        if (j == i || operands[j].sizes.empty()) continue;
        const bool reads = std::ranges::any_of(axes, [&](auto axis) { return size_of(operands[j], axis) > 1; });
        if (!reads) continue;
        const auto partner = std::ranges::find_if(layers[j], shares);
        if (partner == layers[j].end()) {
          freeze(layer, where(node) + " combines them with a tensor that has no channels there");
          stays = false;  // what cannot be removed need not be followed
        } else if (j > i) {
          unite(layer, *partner, node);
        }
      }
      if (stays && std::ranges::none_of(result, shares)) result.push_back(layer);
    }
  }
  return result;
}

// ---- Rules

void Tagger::elementwise(const Node& node) {
  std::vector<Tagged> operands;
  for (const auto& operand : node.operands)
    operand.each_value([&](ValueId id) { operands.push_back(values_[index(id)]); });
  for (const auto output : node.outputs) {
    auto& result = values_[index(output)];
    for (const auto& operand : operands)
      if (operand.rank() > result.rank()) return no_rule(node);
    result.layers = meet(node, operands, result.sizes);
  }
}

void Tagger::no_rule(const Node& node) {
  for (const auto& operand : node.operands)
    operand.each_value([&](ValueId id) {
      for (const auto& layer : values_[index(id)].layers)
        freeze(layer, node.barrier ? where(node) + " writes in place" : where(node) + " has no rule");
    });
}

// Another tensor gives its type alone.
void Tagger::cast(const Node& node) { out(node).layers = in(node, 0).layers; }

void Tagger::channel_norm(const Node& node) {
  const auto x = in(node, 0);
  std::vector<Tagged> operands{x};
  for (const auto* name : {"weight", "bias", "running_mean", "running_var"})
    if (node.op.argument(name) >= 0 && node.operand(name).value() != kNoValue)
      operands.push_back(weight_along(values_[index(node.operand(name).value())], 1, x.rank()));
  out(node).layers = meet(node, operands, out(node).sizes);
}

// Whole groups, so that the statistics of those that stay are what they were.
void Tagger::group_norm(const Node& node) {
  const auto x = in(node, 0);
  const auto groups = node.operand("num_groups").integer().value_or(1);
  const auto tags = channel(node, x, 1);
  const auto width = static_cast<std::int64_t>(tags.size()) / groups;
  if (!forcing_)
    for (std::size_t c = 0; c < tags.size(); ++c) {
      const auto first = tags[c - c % static_cast<std::size_t>(width)];
      if (groups > 1 && first >= 0 && tags[c] >= 0) tags_.unite(first, tags[c]);
    }
  channel_norm(node);
}

void Tagger::layer_norm(const Node& node) {
  std::vector<Tagged> operands{in(node, 0)};
  for (const auto* name : {"weight", "bias"})
    if (node.op.argument(name) >= 0 && node.operand(name).value() != kNoValue)
      operands.push_back(values_[index(node.operand(name).value())]);
  out(node).layers = meet(node, operands, out(node).sizes);
}

void Tagger::prelu(const Node& node) {
  const auto x = in(node, 0);
  out(node).layers = meet(node, {x, weight_along(in(node, 1), x.rank() > 1 ? 1 : 0, x.rank())}, out(node).sizes);
}

void Tagger::fake_quantize_channels(const Node& node) {
  const auto x = in(node, 0);
  const auto axis = node.operand("axis").integer().value_or(0);
  out(node).layers = meet(
      node, {x, weight_along(in(node, 1), axis, x.rank()), weight_along(in(node, 2), axis, x.rank())}, out(node).sizes);
}

void Tagger::softmax(const Node& node) {
  const auto x = in(node, 0);
  const auto given = node.op.argument("dim") < 0 ? Operand() : node.operand("dim");
  const auto dim = given.integer().value_or(x.rank());  // none: any of them may be the one
  for (const auto& layer : x.layers) {
    if (dim >= x.rank() || varies(layer, dim < 0 ? dim + x.rank() : dim)) {
      freeze(layer, where(node) + " runs along them");
    } else if (layer.sizes() == at::IntArrayRef(out(node).sizes)) {
      for (const auto output : node.outputs) values_[index(output)].layers.push_back(layer);
    }
  }
}

void Tagger::reduction(const Node& node) {
  const auto x = in(node, 0);
  const auto position = node.op.argument("dim");
  std::optional<std::vector<std::int64_t>> axes;
  if (position >= 0 && !node.operands[static_cast<std::size_t>(position)].is_none())
    axes = node.operands[static_cast<std::size_t>(position)].integers();
  if (!axes || axes->empty()) return;  // all of it: nothing is left to tag
  const bool keep = node.op.argument("keepdim") >= 0 && node.operand("keepdim").boolean().value_or(false);
  std::vector<bool> reduced(static_cast<std::size_t>(x.rank()), false);
  for (const auto axis : *axes) reduced[static_cast<std::size_t>(axis < 0 ? axis + x.rank() : axis)] = true;
  for (const auto& layer : x.layers) {
    const auto varying = varying_axes(layer);
    const auto inside =
        std::ranges::count_if(varying, [&](auto axis) { return reduced[static_cast<std::size_t>(axis)]; });
    if (inside == static_cast<std::ptrdiff_t>(varying.size())) continue;  // summed up
    if (inside > 0) {
      freeze(layer, where(node) + " sums up a part of each");
      continue;
    }
    auto result = layer;
    for (auto axis = x.rank() - 1; axis >= 0; --axis)
      if (reduced[static_cast<std::size_t>(axis)]) result = keep ? result.narrow(axis, 0, 1) : result.select(axis, 0);
    for (const auto output : node.outputs)
      if (values_[index(output)].sizes == result.sizes().vec()) values_[index(output)].layers.push_back(result);
  }
}

void Tagger::spatial(const Node& node) {
  const auto x = in(node, 0);
  for (std::size_t i = 1; i < node.operands.size(); ++i)  // a grid
    node.operands[i].each_value([&](ValueId id) {
      for (const auto& layer : values_[index(id)].layers) freeze(layer, where(node) + " takes them as positions");
    });
  for (const auto& layer : x.layers) {
    const auto axes = varying_axes(layer);
    if (std::ranges::any_of(axes, [](auto axis) { return axis > 1; })) {
      freeze(layer, where(node) + " mixes them");
      continue;
    }
    auto result = layer;
    for (std::int64_t axis = 2; axis < result.dim(); ++axis) result = result.narrow(axis, 0, 1);
    for (const auto output : node.outputs)
      values_[index(output)].layers.push_back(result.expand(values_[index(output)].sizes));
  }
}

PARE_NAMESPACE_END
