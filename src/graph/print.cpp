#include <cmath>

#include "graph/text_format.hpp"
#include "pare/graph/text.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using namespace text_format;

std::string in_quotes(std::string_view text, char quote = '"') {
  std::string result(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      result += '\\';
      result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      result += c;
    }
  }
  return result + quote;
}

// A dotted path stands as it is, anything else in quotes.
std::string path(std::string_view text) { return is_path(text) ? std::string(text) : in_quotes(text); }

std::string number(double value) {
  auto text = fmt::format("{}", value);
  if (std::isfinite(value) && text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

class Printer {
 public:
  explicit Printer(const Graph& graph) : graph_(graph), numbers_(graph.value_count(), 0) {
    for (const auto& dim : graph.dims())
      dims_.push_back(is_path(dim) && dim.find('.') == std::string::npos && !is_keyword(dim) ? dim
                                                                                             : in_quotes(dim, '`'));
  }

  std::string run() {
    text_ = "graph {\n";
    for (std::size_t i = 0; i < dims_.size(); ++i) {
      text_ += fmt::format("  dim {} = {}", dims_[i], graph_.example_dims()[i]);
      if (graph_.smallest_dims()[i] > 0) text_ += fmt::format(" from {}", graph_.smallest_dims()[i]);
      text_ += "\n";
    }
    for (const auto input : graph_.inputs())
      text_ += fmt::format("  input {} : {}\n", name(input), type(graph_.value(input).type));
    for (std::size_t i = 0; i < graph_.value_count(); ++i) {
      const ValueId id{static_cast<std::uint32_t>(i)};
      if (graph_.value(id).kind == ValueKind::Weight && !graph_.uses(id).empty())
        text_ += fmt::format("  weight {} : {}\n", name(id), type(graph_.value(id).type));
    }
    for (const auto id : graph_.nodes()) line(graph_.node(id));
    text_ += "  output " + join(graph_.outputs(), [&](ValueId value) { return name(value); }) + "\n}\n";
    return std::move(text_);
  }

 private:
  std::string name(ValueId id) const {
    if (id == kNoValue) return "absent";
    if (index(id) >= graph_.value_count()) return fmt::format("%unknown{}", index(id));  // a graph under repair
    const auto& value = graph_.value(id);
    if (value.kind == ValueKind::Weight) return "$" + path(value.name);
    if (value.kind == ValueKind::Input) return "%" + path(value.name);
    return fmt::format("%{}", numbers_[index(id)]);
  }

  template <class Range, class Text>
  static std::string join(const Range& range, const Text& text) {
    std::string joined;
    for (const auto& element : range) joined += (joined.empty() ? "" : ", ") + text(element);
    return joined;
  }

  std::string size(const SymbolicInt& size) const { return size.text(dims_); }
  std::string type(const TensorType& type) const {
    return fmt::format("{}[{}]", dtype_name(type.dtype), join(type.sizes, [&](const auto& s) { return size(s); }));
  }

  std::string operand(const Operand& operand) const {
    struct Visitor {
      const Printer& printer;
      std::string operator()(std::monostate) const { return "none"; }
      std::string operator()(ValueId value) const { return printer.name(value); }
      std::string operator()(const Operand::Values& values) const {
        return "{" + join(values, [&](ValueId value) { return printer.name(value); }) + "}";
      }
      std::string operator()(Flag flag) const { return std::string(kFlags[static_cast<std::size_t>(flag)]); }
      std::string operator()(const SymbolicInt& integer) const { return printer.size(integer); }
      std::string operator()(const Operand::Ints& integers) const {
        return "[" + join(integers, [&](const SymbolicInt& integer) { return printer.size(integer); }) + "]";
      }
      std::string operator()(double value) const { return number(value); }
      std::string operator()(const Operand::Doubles& values) const { return "float[" + join(values, number) + "]"; }
      std::string operator()(const Operand::Bools& flags) const {
        return "bool[" + join(flags, [](bool flag) { return std::string(flag ? "true" : "false"); }) + "]";
      }
      std::string operator()(const std::string& text) const { return in_quotes(text); }
      std::string operator()(const c10::IValue& value) const { return other(value); }
    };
    return std::visit(Visitor{*this}, operand.storage());
  }

  // What has no spelling of its own is shown and cannot be read back.
  static std::string other(const c10::IValue& value) {
    if (value.isNone()) return "none";
    if (value.isDevice()) return fmt::format("device({})", in_quotes(value.toDevice().str()));
    if (value.isBool()) return value.toBool() ? "true" : "false";
    if (value.isInt()) return fmt::format("{}", value.toInt());
    if (value.isDouble()) return number(value.toDouble());
    if (value.isComplexDouble())
      return fmt::format("complex({}, {})", number(value.toComplexDouble().real()),
                         number(value.toComplexDouble().imag()));
    return fmt::format("opaque({})", in_quotes(value.tagKind()));
  }

  void line(const Node& node) {
    for (const auto output : node.outputs) numbers_[index(output)] = next_++;
    text_ += "  ";
    if (!node.outputs.empty()) text_ += join(node.outputs, [&](ValueId value) { return name(value); }) + " = ";
    text_ += fmt::format("{}({})", node.op.name(), join(node.operands, [&](const auto& o) { return operand(o); }));
    if (!node.outputs.empty())
      text_ += " : " + join(node.outputs, [&](ValueId value) { return type(graph_.value(value).type); });
    if (node.condition == Condition::Training) text_ += " when training";
    if (node.condition == Condition::Evaluation) text_ += " when evaluation";
    if (node.barrier) text_ += " barrier";
    if (!node.guard.isNone()) text_ += " guard " + other(node.guard);
    text_ += "  # " + path(node.name);
    if (!node.module.empty()) text_ += " in " + path(node.module);
    text_ += "\n";
  }

  const Graph& graph_;
  std::vector<std::string> dims_;     // as they are spelled
  std::vector<std::size_t> numbers_;  // of results, in the order of the text
  std::size_t next_ = 0;
  std::string text_;
};

}  // namespace

std::string print(const Graph& graph) { return Printer(graph).run(); }

std::string print(const Model& model) {
  std::string text;
  for (const auto& note : model.notes()) {
    text += "// ";
    for (const char c : note) text += c == '\n' ? std::string("\n// ") : std::string(1, c);
    text += "\n";
  }
  return text + print(model.graph());
}

PARE_NAMESPACE_END
