#include "capture/layer_options.hpp"

#include <torch/nn/modules.h>

#include <optional>
#include <string>
#include <string_view>

PARE_NAMESPACE_BEGIN

namespace {

namespace nn = torch::nn;
using Undo = std::vector<std::function<void()>>;

/// One layer and what the graph says of it.
struct Place {
  const Graph& graph;
  std::string path;
  Undo& undo;

  /// Keeps the value that a member has now for the way back.
  template <class T>
  void remember(T& member) const {
    undo.push_back([&member, before = member] { member = before; });
  }
  /// The constant that the layer's own call of `op` is given.
  [[nodiscard]] const Operand* operand(std::string_view op, std::string_view argument) const {
    for (const auto id : graph.nodes()) {
      const auto& node = graph.node(id);
      if (node.module == path && node.op.base().starts_with(op) && node.op.argument(argument) >= 0)
        return &node.operand(argument);
    }
    return nullptr;
  }
  [[nodiscard]] std::optional<std::int64_t> integer(std::string_view op, std::string_view argument) const {
    const auto* found = operand(op, argument);
    return found ? found->integer() : std::nullopt;
  }
};

template <class Layer>
bool convolution(nn::Module& module, const Place& place) {
  auto* layer = module.as<Layer>();
  if (!layer) return false;
  auto& options = layer->options;
  place.remember(options);
  const auto groups = place.integer("aten::conv", "groups").value_or(options.groups());
  const auto rows = layer->weight.size(0), columns = layer->weight.size(1);
  options.groups(groups);
  options.in_channels(options.transposed() ? rows : columns * groups);
  options.out_channels(options.transposed() ? columns * groups : rows);
  return true;
}

template <class Layer>
bool features(nn::Module& module, const Place& place) {
  auto* layer = module.as<Layer>();
  if (!layer) return false;
  place.remember(layer->options);
  if (layer->weight.defined()) {
    layer->options.num_features(layer->weight.numel());
  } else if (layer->running_mean.defined()) {
    layer->options.num_features(layer->running_mean.numel());
  }
  return true;
}

template <class Layer>
bool recurrent(nn::Module& module, const Place& place, std::int64_t gates) {
  auto* layer = module.as<Layer>();
  if (!layer) return false;
  place.remember(layer->options);
  place.remember(layer->options_base);
  const auto parameters = layer->named_parameters(/*recurse=*/false);
  const auto* input = parameters.find("weight_ih_l0");
  if (!input) return true;
  layer->options.input_size(input->size(1)).hidden_size(input->size(0) / gates);
  layer->options_base.input_size(input->size(1)).hidden_size(input->size(0) / gates);
  const auto* projection = parameters.find("weight_hr_l0");
  if (!projection) return true;
  layer->options_base.proj_size(projection->size(0));
  if constexpr (requires { layer->options.proj_size(); }) layer->options.proj_size(projection->size(0));
  return true;
}

template <class Layer>
bool cell(nn::Module& module, const Place& place, std::int64_t gates) {
  auto* layer = module.as<Layer>();
  if (!layer) return false;
  place.remember(layer->options);
  place.remember(layer->options_base);
  const auto input = layer->weight_ih.size(1), hidden = layer->weight_ih.size(0) / gates;
  layer->options.input_size(input).hidden_size(hidden);
  layer->options_base.input_size(input).hidden_size(hidden);
  return true;
}

template <class Layer>
bool embedding(nn::Module& module, const Place& place) {
  auto* layer = module.as<Layer>();
  if (!layer) return false;
  place.remember(layer->options);
  layer->options.num_embeddings(layer->weight.size(0)).embedding_dim(layer->weight.size(1));
  return true;
}

bool linear(nn::Module& module, const Place& place) {
  if (auto* layer = module.as<nn::Linear>()) {
    place.remember(layer->options);
    layer->options.in_features(layer->weight.size(1)).out_features(layer->weight.size(0));
    return true;
  }
  auto* layer = module.as<nn::Bilinear>();
  if (!layer) return false;
  place.remember(layer->options);
  layer->options.out_features(layer->weight.size(0))
      .in1_features(layer->weight.size(1))
      .in2_features(layer->weight.size(2));
  return true;
}

bool layer_norm(nn::Module& module, const Place& place) {
  auto* layer = module.as<nn::LayerNorm>();
  if (!layer) return false;
  place.remember(layer->options);
  if (layer->weight.defined()) {
    layer->options.normalized_shape(layer->weight.sizes().vec());
  } else if (const auto* shape = place.operand("aten::layer_norm", "normalized_shape")) {
    if (const auto sizes = shape->integers()) layer->options.normalized_shape(*sizes);
  }
  return true;
}

bool group_norm(nn::Module& module, const Place& place) {
  auto* layer = module.as<nn::GroupNorm>();
  if (!layer) return false;
  place.remember(layer->options);
  if (const auto groups = place.integer("aten::group_norm", "num_groups")) layer->options.num_groups(*groups);
  if (layer->weight.defined()) layer->options.num_channels(layer->weight.numel());
  return true;
}

bool prelu(nn::Module& module, const Place& place) {
  auto* layer = module.as<nn::PReLU>();
  if (!layer) return false;
  place.remember(layer->options);
  layer->options.num_parameters(layer->weight.numel());
  return true;
}

// Heads keep their width where the new width is a multiple of it; otherwise their number stays.
bool attention(nn::Module& module, const Place& place) {
  auto* layer = module.as<nn::MultiheadAttention>();
  if (!layer) return false;
  auto& options = layer->options;
  place.remember(options);
  place.remember(layer->head_dim);
  const auto width = layer->_qkv_same_embed_dim ? layer->in_proj_weight.size(0) / 3 : layer->q_proj_weight.size(0);
  if (width == options.embed_dim()) return true;
  if (options.kdim() == options.embed_dim()) options.kdim(width);
  if (options.vdim() == options.embed_dim()) options.vdim(width);
  if (layer->head_dim > 0 && width % layer->head_dim == 0) {
    options.num_heads(width / layer->head_dim);
  } else {
    layer->head_dim = width / options.num_heads();
  }
  options.embed_dim(width);
  return true;
}

void update(nn::Module& module, const Place& place) {
  constexpr std::int64_t kLstmGates = 4, kGruGates = 3, kPlain = 1;
  static_cast<void>(
      convolution<nn::Conv2dImpl>(module, place) || linear(module, place) ||
      features<nn::BatchNorm2dImpl>(module, place) || convolution<nn::Conv1dImpl>(module, place) ||
      convolution<nn::Conv3dImpl>(module, place) || convolution<nn::ConvTranspose1dImpl>(module, place) ||
      convolution<nn::ConvTranspose2dImpl>(module, place) || convolution<nn::ConvTranspose3dImpl>(module, place) ||
      features<nn::BatchNorm1dImpl>(module, place) || features<nn::BatchNorm3dImpl>(module, place) ||
      features<nn::InstanceNorm1dImpl>(module, place) || features<nn::InstanceNorm2dImpl>(module, place) ||
      features<nn::InstanceNorm3dImpl>(module, place) || layer_norm(module, place) || group_norm(module, place) ||
      embedding<nn::EmbeddingImpl>(module, place) || embedding<nn::EmbeddingBagImpl>(module, place) ||
      prelu(module, place) || attention(module, place) || recurrent<nn::LSTMImpl>(module, place, kLstmGates) ||
      recurrent<nn::GRUImpl>(module, place, kGruGates) || recurrent<nn::RNNImpl>(module, place, kPlain) ||
      cell<nn::LSTMCellImpl>(module, place, kLstmGates) || cell<nn::GRUCellImpl>(module, place, kGruGates) ||
      cell<nn::RNNCellImpl>(module, place, kPlain));
}

}  // namespace

std::vector<std::function<void()>> update_layer_options(torch::nn::Module& root, const Graph& graph) {
  Undo undo;
  update(root, {graph, "", undo});
  for (const auto& child : root.named_modules("", /*include_self=*/false))
    update(*child.value(), {graph, child.key(), undo});
  return undo;
}

PARE_NAMESPACE_END
