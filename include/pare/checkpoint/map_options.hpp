#pragma once

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// How a checkpoint is mapped.
struct MapOptions {
  /// Compares the weights with the file's checksum, which reads all of them. Off, only the recipe is compared.
  bool check_weights = false;
};

PARE_NAMESPACE_END
