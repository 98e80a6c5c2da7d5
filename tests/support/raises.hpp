#pragma once

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
