#include "execute/onednn/team_spread.hpp"

#include <omp.h>

#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

PARE_NAMESPACE_BEGIN

#if defined(__linux__)

void spread_team() {
  std::vector<int> cpus(static_cast<std::size_t>(omp_get_max_threads()), -1);
#pragma omp parallel num_threads(static_cast <int>(cpus.size()))
  {
    const auto self = static_cast<std::size_t>(omp_get_thread_num());
    cpus[self] = sched_getcpu();
#pragma omp barrier
    bool shared = false;
    for (std::size_t other = 0; other < self; ++other) shared = shared || cpus[other] == cpus[self];
    cpu_set_t before;
    if (shared && sched_getaffinity(0, sizeof(before), &before) == 0) {
      auto free = before;
      for (const auto cpu : cpus)
        if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_CLR(static_cast<std::size_t>(cpu), &free);
      if (CPU_COUNT(&free) > 0 && sched_setaffinity(0, sizeof(free), &free) == 0)
        sched_setaffinity(0, sizeof(before), &before);
    }
  }
}

#else

void spread_team() {}

#endif

PARE_NAMESPACE_END
