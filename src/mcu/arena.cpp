#include <algorithm>
#include <numeric>

#include "mcu/program.hpp"

PARE_NAMESPACE_BEGIN

namespace mcu {

namespace {

struct Life {
  int first = -1, last = -1;
  [[nodiscard]] bool meets(const Life& other) const { return first <= other.last && other.first <= last; }
};

}  // namespace

void plan_arena(Program& program) {
  const auto count = program.buffer_sizes.size();
  std::vector<Life> lives(count);
  for (std::size_t at = 0; at < program.steps.size(); ++at) {
    const auto touch = [&](Place place) {
      if (index(place) < 0) return;
      auto& life = lives[static_cast<std::size_t>(index(place))];
      if (life.first < 0) life.first = static_cast<int>(at);
      life.last = static_cast<int>(at);
    };
    for (const auto& input : program.steps[at].inputs) touch(input.place);
    touch(program.steps[at].output.place);
  }
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](auto a, auto b) { return program.buffer_sizes[a] > program.buffer_sizes[b]; });
  program.buffer_offsets.assign(count, 0);
  std::vector<std::size_t> placed;
  for (const auto buffer : order) {
    // The lowest gap among those that live at the same time.
    std::vector<std::pair<std::int64_t, std::int64_t>> busy;
    for (const auto other : placed)
      if (lives[buffer].meets(lives[other]))
        busy.emplace_back(program.buffer_offsets[other], program.buffer_offsets[other] + program.buffer_sizes[other]);
    std::ranges::sort(busy);
    std::int64_t offset = 0;
    for (const auto& [begin, end] : busy) {
      if (offset + program.buffer_sizes[buffer] <= begin) break;
      offset = std::max(offset, end);
    }
    program.buffer_offsets[buffer] = offset;
    program.arena = std::max(program.arena, offset + program.buffer_sizes[buffer]);
    placed.push_back(buffer);
  }
}

}  // namespace mcu

PARE_NAMESPACE_END
