#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

namespace checkpoint {

/// A file's bytes as a flat uint8 tensor over its pages, copied only where they are written to. Undefined where the
/// path is no file that can be read.
at::Tensor map_file(const std::string& path);

}  // namespace checkpoint

PARE_NAMESPACE_END
