#include "graph/text_scanner.hpp"

#include <algorithm>
#include <charconv>
#include <limits>

#include "graph/text_format.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

using text_format::is_word;

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

void TextScanner::wrong(std::string_view what) const {
  const auto before = text_.substr(0, std::min(at_, text_.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const auto last = before.rfind('\n');
  const auto column = before.size() - (last == std::string_view::npos ? 0 : last + 1) + 1;
  fail("pare.graph.221", fmt::format("line {}, column {}", line, column), "{}", what);
}

void TextScanner::skip_space() {
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      ++at_;
    } else if (text_.substr(at_, 2) == "//") {
      at_ = std::min(text_.find('\n', at_), text_.size());
    } else {
      return;
    }
  }
}

bool TextScanner::accept(std::string_view symbol) {
  skip_space();
  if (text_.substr(at_, symbol.size()) != symbol) return false;
  at_ += symbol.size();
  return true;
}

bool TextScanner::accept_word(std::string_view word) {
  skip_space();
  const auto end = at_ + word.size();
  if (text_.substr(at_, word.size()) != word || (end < text_.size() && is_word(text_[end]))) return false;
  at_ = end;
  return true;
}

void TextScanner::expect(std::string_view symbol) {
  if (!accept(symbol)) wrong(fmt::format("'{}' expected", symbol));
}

bool TextScanner::peek(char first) {
  skip_space();
  return at_ < text_.size() && text_[at_] == first;
}

bool TextScanner::at_digit() {
  skip_space();
  return at_ < text_.size() && is_digit(text_[at_]);
}

bool TextScanner::at_end() {
  skip_space();
  return at_ == text_.size();
}

std::string TextScanner::name() {
  if (peek('"')) return quoted('"');
  auto end = at_;
  while (end < text_.size() && (is_word(text_[end]) || text_[end] == '.')) ++end;
  const auto path = text_.substr(at_, end - at_);
  if (!text_format::is_path(path)) wrong("a name expected");
  at_ = end;
  return std::string(path);
}

std::string TextScanner::dim_name() {
  if (peek('`')) return quoted('`');
  auto end = at_;
  while (end < text_.size() && is_word(text_[end])) ++end;
  if (end == at_ || is_digit(text_[at_])) wrong("the name of a dim expected");
  const auto begin = std::exchange(at_, end);
  return std::string(text_.substr(begin, end - begin));
}

std::string TextScanner::op_name() {
  skip_space();
  auto end = at_;
  while (end < text_.size() && (is_word(text_[end]) || text_[end] == '.' || text_[end] == ':')) ++end;
  const auto name = text_.substr(at_, end - at_);
  if (name.find("::") == std::string_view::npos) wrong("a statement, or an operator such as aten::relu, expected");
  at_ = end;
  return std::string(name);
}

char TextScanner::escaped() {
  if (at_ >= text_.size()) wrong("text without its closing quote");
  const char c = text_[at_++];
  if (c == 'n') return '\n';
  if (c != 'x') return c;
  int code = 0;
  const auto digits = text_.substr(at_, 2);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
  if (digits.size() != 2 || error != std::errc() || end != digits.data() + 2) wrong("two hexadecimal digits expected");
  at_ += 2;
  return static_cast<char>(code);
}

std::string TextScanner::quoted(char quote) {
  expect(std::string_view(&quote, 1));
  std::string result;
  for (;;) {
    if (at_ >= text_.size() || text_[at_] == '\n') wrong("text without its closing quote");
    const char c = text_[at_++];
    if (c == quote) return result;
    result += c == '\\' ? escaped() : c;
  }
}

std::int64_t TextScanner::integer() {
  const bool negative = accept("-");
  const auto magnitude = natural();
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (magnitude > kMax + (negative ? 1 : 0)) wrong("a number beyond 64 bits");
  return negative ? static_cast<std::int64_t>(~magnitude + 1) : static_cast<std::int64_t>(magnitude);
}

std::uint64_t TextScanner::natural() {
  if (!at_digit()) wrong("a number expected");
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
  if (error != std::errc()) wrong("a number beyond 64 bits");
  at_ = static_cast<std::size_t>(end - text_.data());
  return value;
}

std::optional<double> TextScanner::real() {
  skip_space();
  const auto begin = at_;
  const double sign = accept("-") ? -1.0 : 1.0;
  if (accept_word("inf")) return sign * std::numeric_limits<double>::infinity();
  if (accept_word("nan")) return std::numeric_limits<double>::quiet_NaN();
  if (at_ < text_.size() && is_digit(text_[at_])) {
    double value = 0;
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    const auto length = static_cast<std::size_t>(end - text_.data()) - at_;
    if (text_.substr(at_, length).find_first_of(".eE") != std::string_view::npos) {
      if (error != std::errc()) wrong("a number out of range");
      at_ += length;
      return sign * value;
    }
  }
  at_ = begin;
  return std::nullopt;
}

PARE_NAMESPACE_END
