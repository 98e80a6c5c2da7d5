#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "examples/zoo/job.hpp"

namespace zoo {

/// The command line.
struct Arguments {
  JobOptions job;
  std::string json;     ///< file for the result; empty: none
  bool groups = false;  ///< print channel groups and nothing else
};

/// Reads the command line into what is returned, through `app`.
/// @throws CLI::ParseError for arguments that are wrong by themselves
/// @throws pare::Error `zoo.101` for an unknown step of the recipe, `zoo.109` for an option that no step of it reads
/// @throws std::runtime_error for arguments that do not go together
Arguments parse(CLI::App& app, int argc, char** argv);

}  // namespace zoo
