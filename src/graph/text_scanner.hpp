#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Reads the tokens of a graph's text; what does not fit is Error `pare.graph.221` with line and column.
///
/// White space and `// comments` are skipped before every token.
class TextScanner {
 public:
  explicit TextScanner(std::string_view text) : text_(text) {}

  /// Takes `symbol` when it comes next.
  bool accept(std::string_view symbol);
  /// Takes `word` when it comes next as a whole word.
  bool accept_word(std::string_view word);
  void expect(std::string_view symbol);
  bool peek(char first);
  bool at_digit();
  bool at_end();

  /// A dotted path, or anything in double quotes.
  std::string name();
  /// A word, or anything in back quotes.
  std::string dim_name();
  std::string op_name();
  /// Text in quotes, with its escapes resolved.
  std::string quoted(char quote);
  std::int64_t integer();
  std::uint64_t natural();
  /// A number with a point or an exponent, `inf` or `nan`; nothing is taken from a plain integer.
  std::optional<double> real();

  [[noreturn]] void wrong(std::string_view what) const;

 private:
  void skip_space();
  char escaped();

  std::string_view text_;
  std::size_t at_ = 0;
};

PARE_NAMESPACE_END
