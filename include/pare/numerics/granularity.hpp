#pragma once

#include <cstdint>
#include <variant>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// One scale for the whole weight: `[out, in, ...] -> scale []`.
struct PerTensor {
  friend bool operator==(PerTensor, PerTensor) = default;
};
/// One scale for each output channel: `[out, in, ...] -> scale [out]`.
struct PerChannel {
  friend bool operator==(PerChannel, PerChannel) = default;
};
/// One scale for each `size` neighbouring input features of an output channel:
/// `[out, in, ...] -> scale [out * (in * ... / size)]`. A weight whose channels have no multiple of
/// `size` features, or no more than that, gets one scale a channel.
struct PerGroup {
  std::int64_t size = 128;
  friend bool operator==(PerGroup, PerGroup) = default;
};

/// Over which elements of a weight one scale is shared.
using Granularity = std::variant<PerChannel, PerTensor, PerGroup>;

PARE_NAMESPACE_END
