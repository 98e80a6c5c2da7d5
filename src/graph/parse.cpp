#include <c10/core/Device.h>
#include <c10/util/complex.h>

#include <limits>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "graph/schema.hpp"
#include "graph/text_format.hpp"
#include "graph/text_scanner.hpp"
#include "pare/core/error.hpp"
#include "pare/graph/graph_builder.hpp"
#include "pare/graph/text.hpp"
#include "pare/graph/verify.hpp"

PARE_NAMESPACE_BEGIN

namespace {

using namespace text_format;

constexpr std::size_t kMaxText = std::size_t{64} << 20;
constexpr std::size_t kMaxValues = std::size_t{1} << 24;
constexpr std::size_t kMaxRank = 64;

class Parser {
 public:
  explicit Parser(std::string_view text) : scan_(text) {}

  Graph run() {
    scan_.expect("graph");
    scan_.expect("{");
    bool has_output = false;
    while (!scan_.accept("}")) {
      if (scan_.accept_word("dim")) {
        dim();
      } else if (scan_.accept_word("input")) {
        input();
      } else if (scan_.accept_word("weight")) {
        weight();
      } else if (scan_.accept_word("output")) {
        if (has_output) scan_.wrong("a second list of outputs");
        has_output = true;
        outputs();
      } else {
        if (has_output) scan_.wrong("a node after the outputs");
        node();
      }
    }
    if (!scan_.at_end()) scan_.wrong("text after the graph");
    auto graph = std::move(builder_).finish();
    verify(graph);
    return graph;
  }

 private:
  void dim() {
    auto name = scan_.dim_name();
    if (!dims_.emplace(name, static_cast<std::uint32_t>(dims_.size())).second) scan_.wrong("a second dim of this name");
    scan_.expect("=");
    const auto example = scan_.integer();
    builder_.dim(std::move(name), example, scan_.accept_word("from") ? scan_.integer() : 0);
  }

  void input() {
    scan_.expect("%");
    auto name = scan_.name();
    if (!inputs_.emplace(name, kNoValue).second) scan_.wrong("a second input of this name");
    scan_.expect(":");
    inputs_[name] = builder_.input(name, counted(type()));
  }

  void weight() {
    scan_.expect("$");
    auto path = scan_.name();
    if (!weights_.emplace(path, kNoValue).second) scan_.wrong("a second weight of this path");
    scan_.expect(":");
    weights_[path] = builder_.weight(path, counted(type()));
  }

  void outputs() {
    if (scan_.peek('}')) return;
    do {
      builder_.output(scan_.accept_word("absent") ? kNoValue : value());
    } while (scan_.accept(","));
  }

  // %0, %1 = aten::op(operands) : type, type when training barrier guard 1  # name in module
  void node() {
    std::vector<std::uint64_t> results;
    if (scan_.peek('%')) {
      do {
        scan_.expect("%");
        results.push_back(scan_.natural());
      } while (scan_.accept(","));
      scan_.expect("=");
    }
    const Op op(scan_.op_name());
    scan_.expect("(");
    std::vector<Operand> operands;
    if (!scan_.accept(")")) {
      do {
        operands.push_back(operand());
      } while (scan_.accept(","));
      scan_.expect(")");
    }
    std::vector<TensorType> types;
    if (!results.empty()) {
      scan_.expect(":");
      do {
        types.push_back(counted(type()));
      } while (scan_.accept(","));
      if (types.size() != results.size()) scan_.wrong("as many types as results expected");
    }
    Node marks = annotations(op);
    operands = complete(op, std::move(operands), marks.name);
    const auto id = builder_.node(op, std::move(operands), std::move(types), marks.name, marks.module);
    auto& added = builder_.last();
    added.condition = marks.condition;
    added.barrier = marks.barrier;
    added.guard = std::move(marks.guard);
    for (std::size_t i = 0; i < results.size(); ++i)
      if (!results_.emplace(results[i], builder_.output_of(id, i)).second) scan_.wrong("a value computed twice");
  }

  Node annotations(const Op& op) {
    Node marks{NodeId{}, op, {}, {}, {}, {}, Condition::Always, false, {}};
    if (scan_.accept_word("when")) {
      if (scan_.accept_word("training")) {
        marks.condition = Condition::Training;
      } else if (scan_.accept_word("evaluation")) {
        marks.condition = Condition::Evaluation;
      } else {
        scan_.wrong("'training' or 'evaluation' expected");
      }
    }
    marks.barrier = scan_.accept_word("barrier");
    if (scan_.accept_word("guard")) marks.guard = guard();
    if (scan_.accept("#")) {
      marks.name = scan_.name();
      if (!names_.insert(marks.name).second) scan_.wrong("a second layer of this name");
      if (scan_.accept_word("in")) marks.module = scan_.name();
    }
    return marks;
  }

  c10::IValue guard() {
    const auto held = operand();
    if (const auto flag = held.boolean()) return *flag;
    if (const auto integer = held.integer()) return *integer;
    if (const auto number = held.number()) return *number;
    scan_.wrong("a guard is a number or a flag");
  }

  ValueId value() {
    if (scan_.accept("$")) return find(weights_, scan_.name(), "no such weight is declared");
    scan_.expect("%");
    if (scan_.at_digit()) return find(results_, scan_.natural(), "this value is not computed above");
    return find(inputs_, scan_.name(), "no such input is declared");
  }

  template <class Table, class Key>
  ValueId find(const Table& table, const Key& key, const char* otherwise) {
    const auto found = table.find(key);
    if (found == table.end()) scan_.wrong(otherwise);
    return found->second;
  }

  Operand operand() {
    if (scan_.peek('%') || scan_.peek('$')) return value();
    if (scan_.accept("{")) return values();
    if (scan_.accept("[")) return sizes();
    if (scan_.peek('"')) return scan_.quoted('"');
    for (std::size_t i = 0; i < kFlags.size(); ++i)
      if (scan_.accept_word(kFlags[i])) return static_cast<Flag>(i);
    if (scan_.accept_word("none")) return {};
    if (scan_.accept_word("absent")) return kNoValue;
    if (scan_.accept_word("float")) return doubles();
    if (scan_.accept_word("bool")) return bools();
    if (scan_.accept_word("device")) return device();
    if (scan_.accept_word("complex")) return complex();
    if (scan_.accept_word("opaque")) scan_.wrong("an operand that has no text, it cannot be read back");
    if (const auto number = scan_.real()) return *number;
    return size();
  }

  // The elements of a list up to its closing bracket.
  template <class Element>
  auto list(std::string_view close, Element element) {
    std::vector<decltype(element())> elements;
    if (scan_.accept(close)) return elements;
    do {
      elements.push_back(element());
    } while (scan_.accept(","));
    scan_.expect(close);
    return elements;
  }

  Operand values() {
    return list("}", [this] { return scan_.accept_word("absent") ? kNoValue : value(); });
  }
  Operand::Ints sizes() {
    return list("]", [this] { return size(); });
  }
  Operand doubles() {
    scan_.expect("[");
    return list("]", [this] { return number(); });
  }
  Operand bools() {
    scan_.expect("[");
    const auto flags = list("]", [this]() -> char {
      if (scan_.accept_word("true")) return 1;
      if (scan_.accept_word("false")) return 0;
      scan_.wrong("'true' or 'false' expected");
    });
    return Operand::Bools(flags.begin(), flags.end());
  }
  double number() {
    const auto real = scan_.real();
    return real ? *real : static_cast<double>(scan_.integer());
  }
  Operand complex() {
    scan_.expect("(");
    const double real = number();
    scan_.expect(",");
    const double imaginary = number();
    scan_.expect(")");
    return c10::IValue(c10::complex<double>(real, imaginary));
  }
  Operand device() {
    scan_.expect("(");
    const auto name = scan_.quoted('"');
    scan_.expect(")");
    try {
      return c10::IValue(c10::Device(name));
    } catch (const c10::Error&) {
      scan_.wrong("this is no device");
    }
  }

  TensorType type() {
    const auto dtype = dtype_of(scan_.dim_name());
    if (!dtype) scan_.wrong("a dtype such as f32 expected");
    scan_.expect("[");
    TensorType result{*dtype, sizes()};
    if (result.rank() > kMaxRank)
      fail("pare.graph.222", "", "a tensor of {} dimensions; {} are read", result.rank(), kMaxRank);
    return result;
  }
  // One more value.
  TensorType counted(TensorType type) {
    if (++values_count_ > kMaxValues) fail("pare.graph.222", "", "more than {} values", kMaxValues);
    return type;
  }

  // `3*batch + 2`, `-batch*length`, `(batch + 1) / 2`.
  SymbolicInt size() {
    if (!scan_.accept("(")) return SymbolicInt(sum());
    auto terms = sum();
    scan_.expect(")");
    scan_.expect("/");
    const auto divisor = scan_.integer();
    if (divisor < 2 || terms.back().dims.size() + terms.size() < 2)
      scan_.wrong("a sum of dims over 2 or more expected");
    return SymbolicInt(std::move(terms), divisor);
  }

  // Products of dims, then at most one constant: as they are printed, so that reading cannot overflow.
  std::vector<SymbolicInt::Term> sum() {
    std::vector<SymbolicInt::Term> terms;
    bool negative = scan_.accept("-");
    for (;;) {
      terms.push_back(product(negative, terms.empty()));
      if (terms.back().dims.empty()) return terms;
      if (scan_.accept("+")) {
        negative = false;
      } else if (scan_.accept("-")) {
        negative = true;
      } else {
        return terms;
      }
    }
  }

  SymbolicInt::Term product(bool negative, bool first) {
    constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    SymbolicInt::Term term{1, {}};
    bool dims = true;
    if (scan_.at_digit()) {
      const auto magnitude = scan_.natural();
      dims = scan_.accept("*");
      if (magnitude == kMax + 1 && negative && first && !dims) return {std::numeric_limits<std::int64_t>::min(), {}};
      if (magnitude > kMax) scan_.wrong("a number beyond 64 bits");
      term.coefficient = static_cast<std::int64_t>(magnitude);
    }
    while (dims) {
      const auto found = dims_.find(scan_.dim_name());
      if (found == dims_.end()) scan_.wrong("no such dim is declared");
      if (!term.dims.empty() && term.dims.back() >= found->second)
        scan_.wrong("the dims of a product stand in the order of their declaration, each once");
      term.dims.push_back(found->second);
      dims = scan_.accept("*");
    }
    if (negative) term.coefficient = -term.coefficient;
    if (term.coefficient == 0 && !term.dims.empty()) scan_.wrong("a product with 0");
    return term;
  }

  TextScanner scan_;
  GraphBuilder builder_;
  std::map<std::string, std::uint32_t> dims_;
  std::unordered_map<std::string, ValueId> inputs_, weights_;
  std::unordered_map<std::uint64_t, ValueId> results_;
  std::unordered_set<std::string> names_;
  std::size_t values_count_ = 0;
};

}  // namespace

Graph parse_graph(std::string_view text) {
  if (text.size() > kMaxText) fail("pare.graph.222", "", "{} bytes of text; {} are read", text.size(), kMaxText);
  return Parser(text).run();
}

PARE_NAMESPACE_END
