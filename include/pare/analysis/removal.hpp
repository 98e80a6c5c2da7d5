#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pare/graph/graph.hpp"

PARE_NAMESPACE_BEGIN

/// What has to be edited so that a set of channels is gone: as data, for a pass to apply.
struct Removal {
  /// Entries of a weight that stay.
  struct Narrow {
    std::string path;
    std::int64_t dim = 0;
    std::vector<std::int64_t> kept;
  };
  /// A constant that depends on the number of channels: a size of a view, the groups of a convolution, ...
  struct Constant {
    NodeId node{};
    std::size_t position = 0;
    Operand operand;
  };
  /// A call that no constant could adapt: equal chunks that become unequal.
  struct Replacement {
    NodeId node{};
    std::string op;
    std::vector<Operand> operands;
  };
  /// The shape a value has afterwards.
  struct Type {
    ValueId value{};
    TensorType type;
  };

  std::vector<Narrow> weights;
  std::vector<Constant> constants;
  std::vector<Replacement> replacements;
  std::vector<Type> types;
};

PARE_NAMESPACE_END
