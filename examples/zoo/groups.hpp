#pragma once

#include <string>

namespace zoo {

/// The channel groups of an example model as text: what can be pruned, what is frozen and why.
/// @param commit  frozen is also what the module's own forward holds in place
std::string describe_groups(const std::string& model, bool commit);

/// One row for every example model, as the table of docs/pruning.md.
std::string groups_table();

/// The second table there: what each module's own forward holds in place, and what that costs.
std::string commit_table();

}  // namespace zoo
