#pragma once

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What the printer and the parser of graphs agree on.
namespace text_format {

inline constexpr std::array<std::string_view, 4> kFlags{"false", "true", "training", "evaluation"};

inline constexpr std::array<std::pair<c10::ScalarType, std::string_view>, 13> kDtypes{{
    {c10::ScalarType::Float, "f32"},
    {c10::ScalarType::Double, "f64"},
    {c10::ScalarType::Half, "f16"},
    {c10::ScalarType::BFloat16, "bf16"},
    {c10::ScalarType::Char, "i8"},
    {c10::ScalarType::Byte, "u8"},
    {c10::ScalarType::Short, "i16"},
    {c10::ScalarType::Int, "i32"},
    {c10::ScalarType::Long, "i64"},
    {c10::ScalarType::Bool, "bool"},
    {c10::ScalarType::ComplexFloat, "c64"},
    {c10::ScalarType::ComplexDouble, "c128"},
    {c10::ScalarType::ComplexHalf, "c32"},
}};

inline std::string dtype_name(c10::ScalarType dtype) {
  for (const auto& [type, name] : kDtypes)
    if (type == dtype) return std::string(name);
  return c10::toString(dtype);
}

inline std::optional<c10::ScalarType> dtype_of(std::string_view name) {
  for (const auto& [type, known] : kDtypes)
    if (known == name) return type;
  for (int i = 0; i < static_cast<int>(c10::ScalarType::NumOptions); ++i)
    if (const auto type = static_cast<c10::ScalarType>(i); name == c10::toString(type)) return type;
  return std::nullopt;
}

inline bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// Letters, digits, `_` and `.`, not starting with a digit or a dot: needs no quotes. (`layer1.0.conv1`)
inline bool is_path(std::string_view text) {
  return !text.empty() && (std::isalpha(static_cast<unsigned char>(text[0])) != 0 || text[0] == '_') &&
         std::all_of(text.begin(), text.end(), [](char c) { return is_word(c) || c == '.'; });
}

/// Words that an operand may start with: a dim of such a name is quoted.
inline bool is_keyword(std::string_view text) {
  constexpr std::array<std::string_view, 9> kWords{"none",  "absent", "device", "complex", "opaque",
                                                   "float", "bool",   "inf",    "nan"};
  return std::find(kWords.begin(), kWords.end(), text) != kWords.end() ||
         std::find(kFlags.begin(), kFlags.end(), text) != kFlags.end();
}

}  // namespace text_format

PARE_NAMESPACE_END
