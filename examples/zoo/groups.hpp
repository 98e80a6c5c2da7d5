#pragma once

#include <string>

namespace zoo {

/// The channel groups of an example model as text: what can be pruned, what is frozen and why.
std::string describe_groups(const std::string& model);

/// One row for every example model, as the table of docs/pruning.md.
std::string groups_table();

}  // namespace zoo
