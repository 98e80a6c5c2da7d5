#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Writes a file so that its path holds the old content or the new one, whole, whenever the process or the machine
/// stops: a draft beside it is written, synced and renamed. `write` fills the stream. Drafts of the same path that
/// processes of before left behind when they were killed are removed. A link stays one; a device or a pipe is written
/// to.
/// @return whether it worked; where not, the path is as it was and no draft is left
bool replace_file(const std::string& path, const std::function<void(std::ostream&)>& write);

/// A file to be written.
struct FileDraft {
  std::string path;
  std::function<void(std::ostream&)> write;
};

/// The same for files that belong together: all drafts are on disk before the first is renamed, so that only a stop
/// between two renames leaves one new and one old.
/// @return the path that could not be written, and then none has changed; empty: it worked
std::string replace_files(const std::vector<FileDraft>& files);

PARE_NAMESPACE_END
