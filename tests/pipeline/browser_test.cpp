// The report in a real browser, where there is one: light and dark, wide and as narrow as a phone.
#include <torch/torch.h>

#include <cstdlib>
#include <filesystem>

#include "examples/data/readers.hpp"
#include "pare/pipeline/html_report.hpp"
#include "tests/pipeline/board.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

using namespace pare::literals;

std::string browser() {
  for (const auto* name : {"chromium", "chromium-browser", "google-chrome"})
    if (std::system(fmt::format("command -v {} >/dev/null 2>&1", name).c_str()) == 0) return name;
  return {};
}

// What the browser shows of a page: `[3, H, W]`, 0 to 255.
torch::Tensor shot(const std::string& browser, const std::string& page, int width, int height, bool dark) {
  const ScratchFolder folder;
  const auto picture = folder.file("page.png");
  const auto command = fmt::format(
      "timeout 120 {} --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir={} "
      "--blink-settings=preferredColorScheme={} --window-size={},{} --screenshot={} file://{} >/dev/null 2>&1",
      browser, folder.file("profile"), dark ? 0 : 1, width, height, picture, page);
  REQUIRE(std::system(command.c_str()) == 0);
  return data::decode_image(contents(picture), 3, picture)[0].to(torch::kFloat);
}

}  // namespace

TEST_CASE("the report is readable in a browser, light and dark, wide and narrow", "[auto][browser]") {
  const auto program = browser();
  if (program.empty()) {
    WARN("skipped: there is no chromium to look at the report with");
    return;
  }
  const Board board;
  auto options = board.options(3000_B);
  options.explore = 1;
  const ScratchFolder folder;
  pare::write_html_report(folder.file("report.html"), pare::optimize(board.model, options),
                          {.title = "Fields", .watts = 20, .samples = {board.unseen}});
  for (const bool dark : {false, true})
    for (const int width : {1000, 500}) {
      const auto seen = shot(program, folder.file("report.html"), width, 1600, dark);
      INFO(width << (dark ? ", dark" : ", light"));
      REQUIRE(seen.size(2) == width);
      const auto corner = seen.select(1, 2).select(1, 2).mean().item<double>();
      CHECK((dark ? corner < 60 : corner > 240));
      // Something is drawn, in its contrast; nothing runs off the page.
      const auto differs = (seen - seen.select(1, 2).select(1, 2).view({3, 1, 1})).abs().amax(0).gt(60);
      const auto share = differs.to(torch::kDouble).mean().item<double>();
      CHECK(share > 0.01);
      CHECK(share < 0.5);
      CHECK_FALSE(differs.narrow(1, width - 3, 3).any().item<bool>());
    }
}
