#include "tag_table.hpp"

#include <utility>

PARE_NAMESPACE_BEGIN

namespace {
std::size_t at_tag(std::int64_t tag) { return static_cast<std::size_t>(tag); }
}  // namespace

std::int64_t TagTable::add(ValueId source, std::int64_t dim, std::int64_t count) {
  const auto first = size();
  axes_.push_back({source, dim, first, count});
  for (std::int64_t i = 0; i < count; ++i) parent_.push_back(first + i);
  reason_of_.resize(parent_.size(), -1);
  axis_of_.resize(parent_.size(), static_cast<std::uint32_t>(axes_.size() - 1));
  return first;
}

std::int64_t TagTable::find(std::int64_t tag) const {
  const auto parent = parent_[at_tag(tag)];
  if (parent == tag || parent_[at_tag(parent)] == parent) return parent;  // nearly always
  auto root = parent;
  while (parent_[at_tag(root)] != root) root = parent_[at_tag(root)];
  while (parent_[at_tag(tag)] != root) tag = std::exchange(parent_[at_tag(tag)], root);
  return root;
}

void TagTable::unite(std::int64_t a, std::int64_t b) {
  a = find(a);
  b = find(b);
  if (a == b) return;
  if (b < a) std::swap(a, b);  // the earliest tag stays, so that names do not depend on the order of unions
  parent_[at_tag(b)] = a;
  if (reason_of_[at_tag(b)] >= 0) freeze(a, reason_of_[at_tag(b)]);
}

std::int32_t TagTable::reason(std::string text, bool hidden) {
  reasons_.push_back({std::move(text), hidden});
  return static_cast<std::int32_t>(reasons_.size() - 1);
}

void TagTable::freeze(std::int64_t tag, std::int32_t reason) {
  auto& held = reason_of_[at_tag(find(tag))];
  if (held < 0 || reasons_[static_cast<std::size_t>(held)].hidden) held = reason;
}

const TagTable::Reason* TagTable::frozen(std::int64_t tag) const {
  const auto held = reason_of_[at_tag(find(tag))];
  return held < 0 ? nullptr : &reasons_[static_cast<std::size_t>(held)];
}

void TagTable::thaw() { reason_of_.assign(reason_of_.size(), -1); }

PARE_NAMESPACE_END
