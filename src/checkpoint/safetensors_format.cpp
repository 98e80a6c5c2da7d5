#include "checkpoint/safetensors_format.hpp"

#include <array>
#include <utility>

PARE_NAMESPACE_BEGIN
namespace checkpoint {
namespace {

constexpr std::array<std::pair<std::string_view, torch::ScalarType>, 15> kDtypes = {{
    {"F64", torch::kDouble},
    {"F32", torch::kFloat},
    {"F16", torch::kHalf},
    {"BF16", torch::kBFloat16},
    {"F8_E4M3", torch::kFloat8_e4m3fn},
    {"F8_E5M2", torch::kFloat8_e5m2},
    {"I64", torch::kLong},
    {"I32", torch::kInt},
    {"I16", torch::kShort},
    {"I8", torch::kChar},
    {"U64", torch::kUInt64},
    {"U32", torch::kUInt32},
    {"U16", torch::kUInt16},
    {"U8", torch::kByte},
    {"BOOL", torch::kBool},
}};

}  // namespace

std::optional<torch::ScalarType> dtype_from_name(std::string_view name) {
  for (const auto& [known, dtype] : kDtypes) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

std::optional<std::string> name_of_dtype(torch::ScalarType dtype) {
  for (const auto& [name, known] : kDtypes) {
    if (known == dtype) return std::string(name);
  }
  return std::nullopt;
}

std::string printable(std::string_view text) {
  constexpr size_t kLongest = 160;
  std::string result(text.substr(0, kLongest));
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  if (text.size() > kLongest) result += "...";
  return result;
}

}  // namespace checkpoint
PARE_NAMESPACE_END
