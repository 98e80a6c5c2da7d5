#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "pare/core/literals.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// An axis of a weight: path, dim.
using WeightAxis = std::pair<std::string, std::int64_t>;

/// One thing that may be done to a layer or to a group.
struct JointChoice {
  Bits bits = {8};
  Ratio ratio = {0};
  double damage = 0;
  std::map<WeightAxis, std::int64_t> removed = {};
};

/// A layer or a group with its choices: for each class the one that does least comes first.
struct JointClass {
  std::string name;
  std::string weight;  // of a layer; empty: a group
  std::int64_t size = 0;
  std::vector<JointChoice> choices;
};

/// A choice of each class.
using Selected = std::vector<std::size_t>;

/// What a plan of choices stores and computes, exactly: every weight's entries are a product of what is left of its
/// axes.
class JointSize {
 public:
  /// @param model     float, whole
  /// @param quantized what is stored of it, whole
  /// @param classes   must outlive the object
  JointSize(const Model& model, const Model& quantized, const std::vector<JointClass>& classes);
  /// Stored (`WeightStorage`).
  [[nodiscard]] std::uint64_t bytes(const Selected& selected) const;
  /// Of one sample.
  [[nodiscard]] double macs(const Selected& selected) const;
  /// The share of each weight's entries that is left, by path.
  [[nodiscard]] std::map<std::string, double> left(const Selected& selected) const;

 private:
  struct Entry {
    std::string path;
    std::vector<std::int64_t> sizes;
    std::uint64_t bytes = 0;
    int bits = 32;
    std::string weight = {};                // that these are the scales or zero points of; else empty
    std::optional<std::int64_t> axis = {};  // of that weight, one for each entry; none: one for each group
  };
  using Removed = std::map<WeightAxis, std::int64_t>;
  void find_grids(const Model& quantized);
  [[nodiscard]] const Entry& entry(const std::string& path) const;
  [[nodiscard]] std::uint64_t count_left(const Entry& entry, const Removed& removed) const;
  [[nodiscard]] Removed removed_by(const Selected& selected) const;
  [[nodiscard]] static double share_left(const Entry& entry, const Removed& removed);
  [[nodiscard]] int bits_of(const Entry& entry, const Selected& selected) const;

  const std::vector<JointClass>& classes_;
  std::vector<Entry> entries_;
  std::uint64_t beside_ = 0;
  std::map<std::string, double> macs_;  // of the layers that read a weight
  double fixed_macs_ = 0;
};

PARE_NAMESPACE_END
