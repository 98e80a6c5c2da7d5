#pragma once

#include <string_view>

#include "pare/core/error.hpp"
#include "pare/graph/text.hpp"

/// Reads arbitrary bytes as a graph. Anything but a graph whose text reads back unchanged, or a one-line `pare::Error`
/// of the graph, is a finding: it escapes, or the function returns false.
inline bool fuzz_graph_text(std::string_view bytes) {
  try {
    const auto text = pare::print(pare::parse_graph(bytes));
    return pare::print(pare::parse_graph(text)) == text;
  } catch (const pare::Error& error) {
    return error.id().rfind("pare.graph.", 0) == 0 &&
           std::string_view(error.what()).find('\n') == std::string_view::npos;
  }
}
