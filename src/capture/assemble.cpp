#include "capture/assemble.hpp"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "pare/core/error.hpp"
#include "pare/graph/graph_builder.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr int kNone = -1;

// A step of the merged graph: a call of the evaluation trace, of the training trace, or of both.
struct Pair {
  int evaluation = kNone;
  int training = kNone;
};

bool same_kind(const Trace& a, const Trace::Call& x, const Trace& b, const Trace::Call& y) {
  if (!(x.op == y.op) || x.outputs.size() != y.outputs.size() || x.operands.size() != y.operands.size()) return false;
  if (x.guard != y.guard) return false;  // each mode goes the way that the value it reads tells it to
  for (std::size_t i = 0; i < x.operands.size(); ++i) {
    const auto u = x.operands[i].value(), v = y.operands[i].value();
    if (u == kNoValue || v == kNoValue) continue;
    const auto& p = a.values[index(u)];
    const auto& q = b.values[index(v)];
    const bool weight = p.origin == Trace::Origin::Weight || q.origin == Trace::Origin::Weight;
    if (weight && p.path != q.path) return false;
  }
  return true;
}

// Longest common subsequence of the two call lists; equal ends are matched directly.
std::vector<Pair> match_calls(const Trace& e, const Trace& t) {
  const auto same = [&](std::size_t i, std::size_t j) { return same_kind(e, e.calls[i], t, t.calls[j]); };
  std::size_t begin = 0, end_e = e.calls.size(), end_t = t.calls.size();
  std::vector<Pair> pairs;
  while (begin < end_e && begin < end_t && same(begin, begin)) {
    pairs.push_back({static_cast<int>(begin), static_cast<int>(begin)});
    ++begin;
  }
  std::vector<Pair> tail;
  while (end_e > begin && end_t > begin && same(end_e - 1, end_t - 1))
    tail.push_back({static_cast<int>(--end_e), static_cast<int>(--end_t)});
  const std::size_t n = end_e - begin, m = end_t - begin;
  std::vector<std::vector<std::uint32_t>> length(n + 1, std::vector<std::uint32_t>(m + 1, 0));
  for (std::size_t i = n; i-- > 0;)
    for (std::size_t j = m; j-- > 0;)
      length[i][j] =
          same(begin + i, begin + j) ? length[i + 1][j + 1] + 1 : std::max(length[i + 1][j], length[i][j + 1]);
  for (std::size_t i = 0, j = 0; i < n || j < m;) {
    const auto row = static_cast<int>(begin + i), column = static_cast<int>(begin + j);
    if (i < n && j < m && same(begin + i, begin + j) && length[i][j] == length[i + 1][j + 1] + 1) {
      pairs.push_back({row, column});
      ++i, ++j;
    } else if (j == m || (i < n && length[i + 1][j] >= length[i][j + 1])) {
      pairs.push_back({row, kNone});
      ++i;
    } else {
      pairs.push_back({kNone, column});
      ++j;
    }
  }
  pairs.insert(pairs.end(), tail.rbegin(), tail.rend());
  return pairs;
}

class Assembler {
 public:
  Assembler(const SymbolicTrace& evaluation, const SymbolicTrace* training, const ModuleTensors& tensors)
      : evaluation_(evaluation), training_(training), tensors_(tensors) {
    to_graph_[0].assign(evaluation.trace.values.size(), kNoValue);
    if (training) to_graph_[1].assign(training->trace.values.size(), kNoValue);
  }

  Assembled run(const std::vector<SampledDim>& dims, const std::vector<std::int64_t>& example_dims,
                const std::vector<std::string>& input_names) {
    for (std::size_t d = 0; d < dims.size(); ++d) builder_.dim(dims[d].name, example_dims[d]);
    add_inputs(input_names);
    std::vector<NodeId> nodes(evaluation_.trace.calls.size(), kNoNode);
    if (!training_) {
      for (std::size_t i = 0; i < nodes.size(); ++i) nodes[i] = add_call(0, i, Condition::Always);
    } else {
      for (const auto& pair : match_calls(evaluation_.trace, training_->trace)) {
        const auto e = static_cast<std::size_t>(pair.evaluation), t = static_cast<std::size_t>(pair.training);
        if (pair.training == kNone) {
          nodes[e] = add_call(0, e, Condition::Evaluation);
        } else if (pair.evaluation == kNone) {
          add_call(1, t, Condition::Training);
        } else {
          nodes[e] = add_both(e, t);
        }
      }
    }
    add_outputs();
    Assembled result{Model(std::move(builder_).finish(), std::move(weights_)), std::move(nodes)};
    return result;
  }

 private:
  const SymbolicTrace& side(int mode) const { return mode == 0 ? evaluation_ : *training_; }

  void add_inputs(const std::vector<std::string>& names) {
    for (std::size_t i = 0; i < evaluation_.trace.values.size(); ++i) {
      const auto& value = evaluation_.trace.values[i];
      if (value.origin != Trace::Origin::Input) continue;
      const auto p = value.position;
      const auto name = p < names.size() ? names[p] : p == 0 ? std::string("x") : fmt::format("x{}", p);
      const auto id = builder_.input(name, {value.dtype, evaluation_.sizes[i]});
      to_graph_[0][i] = id;
      if (training_) to_graph_[1][i] = id;  // inputs come first in every trace
    }
  }

  // The graph's value for a value of one trace; weights and constants are entered on first use.
  ValueId find(int mode, ValueId trace_value) {
    auto& known = to_graph_[mode][index(trace_value)];
    if (known != kNoValue) return known;
    const auto& value = side(mode).trace.values[index(trace_value)];
    TensorType type{value.dtype, side(mode).sizes[index(trace_value)]};
    if (value.origin == Trace::Origin::Weight) {
      const auto entry = std::find_if(tensors_.entries.begin(), tensors_.entries.end(),
                                      [&](const auto& candidate) { return candidate.path == value.path; });
      weights_.try_emplace(value.path, Weight{entry->tensor, entry->is_parameter, entry->aliases});
      known = builder_.weight(value.path, std::move(type));
    } else if (value.origin == Trace::Origin::Constant) {
      known = builder_.weight(constant_path(value.constant), std::move(type));
    } else {
      fail("pare.capture.151", "", "training and evaluation mode compute too differently to be one model");
    }
    return known;
  }

  std::string constant_path(const at::Tensor& tensor) {
    for (const auto& [path, weight] : weights_)
      if (path.starts_with("constant.") &&
          (weight.tensor.is_same(tensor) ||
           (weight.tensor.sizes() == tensor.sizes() && weight.tensor.scalar_type() == tensor.scalar_type() &&
            weight.tensor.equal(tensor))))
        return path;
    auto path = fmt::format("constant.{}", constants_++);
    weights_.emplace(path, Weight{tensor, false, {}});
    return path;
  }

  std::vector<Operand> map_operands(int mode, std::size_t call) {
    auto operands = side(mode).trace.calls[call].operands;
    for (auto& operand : operands) operand.each_value([&](ValueId& value) { value = find(mode, value); });
    return operands;
  }

  // Calls that read a weight, as it is or transposed, scaled, …, are named after the module that owns it, others after
  // the module around the last weight.
  NodeId append(int mode, std::size_t call, std::vector<Operand> operands, Condition condition) {
    const auto& trace = side(mode).trace;
    const auto& source = trace.calls[call];
    std::string owner;
    for (const auto& operand : source.operands)
      operand.each_value([&](ValueId value) {
        const auto& weight = trace.values[index(value)];
        if (owner.empty() && weight.origin == Trace::Origin::Weight) owner = weight.path;
      });
    for (const auto& operand : operands)
      operand.each_value([&](ValueId value) {
        if (const auto prepared = prepared_.find(value); owner.empty() && prepared != prepared_.end())
          owner = prepared->second;
      });
    const bool prepares_weight =
        !source.outputs.empty() && !owner.empty() && !trace.values[index(source.outputs.front())].depends_on_input;
    const auto base = std::string(source.op.base().substr(source.op.base().rfind(':') + 1));
    std::string name, module;
    if (!owner.empty()) {
      module = owner_of(owner);
      scope_ = owner_of(module);
      name = module.empty() || prepares_weight || source.barrier ? join(module, base) : module;
    } else {
      module = scope_;
      name = join(module, base);
    }
    std::vector<TensorType> types;
    for (const auto output : source.outputs)
      types.push_back({trace.values[index(output)].dtype, side(mode).sizes[index(output)]});
    const auto id = builder_.node(source.op, std::move(operands), std::move(types), name, module);
    builder_.last().condition = condition;
    builder_.last().barrier = source.barrier;
    builder_.last().guard = source.guard;
    if (prepares_weight)
      for (std::size_t i = 0; i < source.outputs.size(); ++i) prepared_[builder_.output_of(id, i)] = owner;
    return id;
  }

  static std::string join(const std::string& module, const std::string& base) {
    return module.empty() ? base : module + "." + base;
  }

  NodeId add_call(int mode, std::size_t call, Condition condition) {
    const auto id = append(mode, call, map_operands(mode, call), condition);
    bind_outputs(mode, call, id);
    return id;
  }

  void bind_outputs(int mode, std::size_t call, NodeId node) {
    const auto& outputs = side(mode).trace.calls[call].outputs;
    for (std::size_t i = 0; i < outputs.size(); ++i) to_graph_[mode][index(outputs[i])] = builder_.output_of(node, i);
  }

  NodeId add_both(std::size_t e, std::size_t t) {
    auto operands = map_operands(0, e);
    const auto others = map_operands(1, t);
    for (std::size_t i = 0; i < operands.size(); ++i) merge(operands[i], others[i], e);
    const auto id = append(0, e, std::move(operands), Condition::Always);
    bind_outputs(0, e, id);
    bind_outputs(1, t, id);
    return id;
  }

  void merge(Operand& evaluation, const Operand& training, std::size_t call) {
    if (auto* value = evaluation.get<ValueId>(); value && training.get<ValueId>()) {
      *value = select(*value, training.value());
    } else if (auto* values = evaluation.get<Operand::Values>();
               values && training.get<Operand::Values>() && training.get<Operand::Values>()->size() == values->size()) {
      for (std::size_t i = 0; i < values->size(); ++i)
        (*values)[i] = select((*values)[i], (*training.get<Operand::Values>())[i]);
    } else if (const auto* flag = evaluation.get<Flag>(); flag && training.get<Flag>()) {
      if (*flag != *training.get<Flag>()) evaluation = *flag == Flag::False ? Flag::Training : Flag::Evaluation;
    } else if (!same_constant(evaluation, training)) {
      fail("pare.capture.151", evaluation_.trace.module_at(call),
           "{} is given other arguments in training mode than in evaluation mode, and not only a flag",
           evaluation_.trace.calls[call].op.name());
    }
  }

  static bool same_constant(const Operand& a, const Operand& b) {
    if (a.storage().index() != b.storage().index()) return false;
    if (const auto* x = a.get<SymbolicInt>()) return *x == *b.get<SymbolicInt>();
    if (const auto* x = a.get<Operand::Ints>()) return *x == *b.get<Operand::Ints>();
    if (const auto* x = a.get<double>()) return *x == *b.get<double>();
    if (const auto* x = a.get<Operand::Doubles>()) return *x == *b.get<Operand::Doubles>();
    if (const auto* x = a.get<Operand::Bools>()) return *x == *b.get<Operand::Bools>();
    if (const auto* x = a.get<std::string>()) return *x == *b.get<std::string>();
    return true;  // none, devices and generators
  }

  ValueId select(ValueId evaluation, ValueId training) {
    if (evaluation == training) return evaluation;
    const auto key = std::make_pair(evaluation, training);
    if (const auto known = selects_.find(key); known != selects_.end()) return known->second;
    const auto type = builder_.graph().value(evaluation == kNoValue ? training : evaluation).type;
    const auto node =
        builder_.node(Op("pare::training_select"), {Operand(training), Operand(evaluation)}, {type}, {}, scope_);
    return selects_[key] = builder_.output_of(node);
  }

  void add_outputs() {
    const auto& outputs = evaluation_.trace.outputs;
    if (training_ && training_->trace.outputs.size() != outputs.size())
      fail("pare.capture.151", "", "the forward returns {} tensors in evaluation mode and {} in training mode",
           outputs.size(), training_->trace.outputs.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      auto value = outputs[i] == kNoValue ? kNoValue : find(0, outputs[i]);
      if (training_ && training_->trace.outputs[i] != kNoValue)
        value = select(value, find(1, training_->trace.outputs[i]));
      builder_.output(value);
    }
  }

  const SymbolicTrace& evaluation_;
  const SymbolicTrace* training_;
  const ModuleTensors& tensors_;
  GraphBuilder builder_;
  Weights weights_;
  std::vector<ValueId> to_graph_[2];
  std::map<std::pair<ValueId, ValueId>, ValueId> selects_;
  std::unordered_map<ValueId, std::string> prepared_;  // weights after ops of their own: the path of the first
  std::string scope_;
  int constants_ = 0;
};

}  // namespace

Assembled assemble(const SymbolicTrace& evaluation, const SymbolicTrace* training, const std::vector<SampledDim>& dims,
                   const std::vector<std::int64_t>& example_dims, const std::vector<std::string>& input_names,
                   const ModuleTensors& tensors) {
  return Assembler(evaluation, training, tensors).run(dims, example_dims, input_names);
}

PARE_NAMESPACE_END
