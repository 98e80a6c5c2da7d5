#include "pare/core/error.hpp"

#include "tests/support/catch.hpp"

TEST_CASE("an error carries its id, path and one line", "[core]") {
  try {
    pare::fail("pare.prune.104", "layer2.0.conv1", "ratio {} would leave no channels", 1.0);
    FAIL("fail() returned");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.prune.104");
    CHECK(error.path() == "layer2.0.conv1");
    CHECK(std::string(error.what()) == "[pare.prune.104] layer2.0.conv1: ratio 1 would leave no channels");
  }
}
