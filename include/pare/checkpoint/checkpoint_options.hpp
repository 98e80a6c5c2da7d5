#pragma once

#include <map>
#include <string>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// How a checkpoint is written.
struct CheckpointOptions {
  /// Quantized weights as their integers. Off: as the float numbers that a training goes on from.
  bool pack = true;
  /// Further entries of the file's metadata. Keys that begin with `pare.` are the library's own.
  std::map<std::string, std::string> metadata = {};
};

PARE_NAMESPACE_END
