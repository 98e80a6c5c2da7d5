#pragma once

#include <torch/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// What reading and writing safetensors share.
namespace checkpoint {

/// More axes than any tensor has; LibTorch's own limit is 64 in places.
inline constexpr size_t kMaxAxes = 64;

/// The dtype that the format calls so, e.g. "BF16".
std::optional<torch::ScalarType> dtype_from_name(std::string_view name);

/// The format's name of a dtype, where it has one.
std::optional<std::string> name_of_dtype(torch::ScalarType dtype);

/// A name from a file made fit for one line of an error: control characters replaced, long ones cut.
std::string printable(std::string_view text);

}  // namespace checkpoint

PARE_NAMESPACE_END
