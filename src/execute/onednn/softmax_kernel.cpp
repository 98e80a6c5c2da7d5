#include "execute/onednn/softmax_kernel.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/round_to_even.hpp"
#include "core/vector_width.hpp"
#include "execute/processor.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr int kLanes = 16;
constexpr std::int64_t kRowsOfATask = 16;
constexpr float kLog2E = 1.44269504F;
constexpr float kLowest = std::numeric_limits<float>::lowest();

using Floats [[gnu::vector_size(4 * kLanes)]] = float;
using Ints [[gnu::vector_size(4 * kLanes)]] = std::int32_t;
using Bytes [[gnu::vector_size(kLanes)]] = std::uint8_t;

// Vectors stay in one function: handing them over would depend on the registers that callers are compiled for.
PARE_EACH_VECTOR_WIDTH void softmax_rows(const float* source, std::uint8_t* result, std::int64_t rows,
                                         std::int64_t count, float inverse) {
  alignas(64) float powers[kLongestSoftmax];
  const Floats low = Floats{} - 126.0F, high = Floats{} + 255.0F;
  const auto whole = count / kLanes * kLanes, padded = (count + kLanes - 1) / kLanes * kLanes;
  for (std::int64_t r = 0; r < rows; ++r, source += count, result += count) {
    const float* row = source;
    if (whole != count) {
      std::memcpy(powers, source, static_cast<std::size_t>(count) * sizeof(float));
      std::fill(powers + count, powers + padded, kLowest);
      row = powers;
    }
    Floats most;
    std::memcpy(&most, row, sizeof most);
    for (std::int64_t i = kLanes; i < padded; i += kLanes) {
      Floats x;
      std::memcpy(&x, row + i, sizeof x);
      most = x > most ? x : most;
    }
    Floats other = __builtin_shufflevector(most, most, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    most = other > most ? other : most;
    other = __builtin_shufflevector(most, most, 4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15);
    most = other > most ? other : most;
    const float top = std::max(std::max(most[0], most[1]), std::max(most[2], most[3]));
    if (!(top > kLowest)) {
      std::memset(result, 0, static_cast<std::size_t>(count));
      continue;
    }
    // e^(x - top) = 2^n 2^f with f in [-0.5, 0.5], where 2^f is its Taylor series.
    const float shift = top * kLog2E;
    Floats sums = {};
    for (std::int64_t i = 0; i < padded; i += kLanes) {
      Floats x;
      std::memcpy(&x, row + i, sizeof x);
      x = x * kLog2E - shift;
      x = x > low ? x : low;
      const Floats n = x + kRoundsToEven;
      const Floats f = x - (n - kRoundsToEven);
      Floats power = 1.33335581e-3F * f + 9.61812911e-3F;
      power = power * f + 5.55041087e-2F;
      power = power * f + 2.40226507e-1F;
      power = power * f + 6.93147181e-1F;
      power = power * f + 1.0F;
      power = reinterpret_cast<Floats>(reinterpret_cast<Ints>(power) + (reinterpret_cast<Ints>(n) << 23));
      std::memcpy(powers + i, &power, sizeof power);
      sums += power;
    }
    sums += __builtin_shufflevector(sums, sums, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    sums += __builtin_shufflevector(sums, sums, 4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15);
    const float factor = inverse / ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (std::int64_t i = 0; i < padded; i += kLanes) {
      Floats x;
      std::memcpy(&x, powers + i, sizeof x);
      x = x * factor;
      x = (x < high ? x : high) + kRoundsToEven;
      const Bytes bytes = __builtin_convertvector(reinterpret_cast<Ints>(x) & 255, Bytes);
      if (i < whole) {
        std::memcpy(result + i, &bytes, sizeof bytes);
      } else {
        std::memcpy(result + i, &bytes, static_cast<std::size_t>(count - whole));
      }
    }
  }
}

}  // namespace

bool prefers_own_softmax() { return processor().instructions.contains("avx512_vnni"); }

void softmax_to_integers(const float* source, std::uint8_t* result, std::int64_t rows, std::int64_t count,
                         float scale) {
  const auto tasks = (rows + kRowsOfATask - 1) / kRowsOfATask;
#pragma omp parallel for if (tasks > 1)
  for (std::int64_t task = 0; task < tasks; ++task) {
    const auto first = task * kRowsOfATask;
    softmax_rows(source + first * count, result + first * count, std::min(kRowsOfATask, rows - first), count,
                 1.0F / scale);
  }
}

PARE_NAMESPACE_END
