#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "pare/core/error.hpp"
#include "tests/support/catch.hpp"

/// Whether `call()` throws a pare::Error with this id; another outcome is shown beside the failed check.
template <class Call>
bool raises(std::string_view id, Call&& call) {
  try {
    std::forward<Call>(call)();
  } catch (const pare::Error& error) {
    if (error.id() == id) return true;
    UNSCOPED_INFO("threw " << error.what());
    return false;
  }
  UNSCOPED_INFO("did not throw " << id);
  return false;
}

/// The path of the pare::Error that `call()` throws.
template <class Call>
std::string path_raised(Call&& call) {
  try {
    std::forward<Call>(call)();
  } catch (const pare::Error& error) {
    return error.path();
  }
  return "nothing was thrown";
}
