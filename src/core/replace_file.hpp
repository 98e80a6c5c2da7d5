#pragma once

#include <functional>
#include <ostream>
#include <string>

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// Writes a file so that its path holds the old content or the new one, whole, whenever the process or the machine
/// stops: a draft beside it is written, synced and renamed. `write` fills the stream.
/// @return whether it worked; where not, the path is as it was and no draft is left
bool replace_file(const std::string& path, const std::function<void(std::ostream&)>& write);

PARE_NAMESPACE_END
