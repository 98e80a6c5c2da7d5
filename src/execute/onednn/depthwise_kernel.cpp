#include "execute/onednn/depthwise_kernel.hpp"

#include <ATen/Functions.h>

#include <algorithm>
#include <array>

#if defined(__x86_64__)
#include <immintrin.h>
#define PARE_DEPTHWISE_KERNEL 1
#else
#define PARE_DEPTHWISE_KERNEL 0
#endif

PARE_NAMESPACE_BEGIN

namespace {

constexpr std::int64_t kWide = 64, kNarrow = 32;  // channels of a block: bytes of a vector

// Channels are worked on in blocks of 64; few that remain are a narrow one.
std::int64_t blocks_of(std::int64_t channels) { return (channels + kWide - 1) / kWide; }
std::int64_t width_of(std::int64_t block, std::int64_t channels) {
  return channels - block * kWide > kNarrow ? kWide : kNarrow;
}

// Interleaving four vectors of bytes leaves the channels of each 16 bytes together, four to a vector of sums.
std::int64_t channel_at(std::int64_t place, std::int64_t width) {
  const auto lanes = width / 4, vector = place / lanes, lane = place % lanes;
  return lane / 4 * 16 + vector * 4 + lane % 4;
}

// Four taps of a column are multiplied at once, the last of them with zeros.
constexpr std::int64_t quads_of(std::int64_t taps) { return (taps + 3) / 4; }

std::vector<float> in_order(const std::vector<float>& values) {
  const auto channels = static_cast<std::int64_t>(values.size());
  std::vector<float> result(static_cast<std::size_t>(blocks_of(channels) * kWide));
  for (std::int64_t block = 0; block < blocks_of(channels); ++block) {
    const auto width = width_of(block, channels);
    for (std::int64_t place = 0; place < width; ++place)
      if (const auto channel = block * kWide + channel_at(place, width); channel < channels)
        result[static_cast<std::size_t>(block * kWide + place)] = values[static_cast<std::size_t>(channel)];
  }
  return result;
}

#if PARE_DEPTHWISE_KERNEL

#define PARE_TARGET [[gnu::target("avx512f,avx512bw,avx512vl,avx512vnni,fma")]]
#define PARE_INLINE [[gnu::target("avx512f,avx512bw,avx512vl,avx512vnni,fma"), gnu::always_inline]]

struct WideVector {
  using Bytes = __m512i;
  static constexpr int kBytes = 64;
  PARE_INLINE static Bytes zeros() { return _mm512_setzero_si512(); }
  PARE_INLINE static Bytes all(std::uint8_t value) { return _mm512_set1_epi8(static_cast<char>(value)); }
  PARE_INLINE static Bytes load(const void* from) { return _mm512_loadu_si512(from); }
  PARE_INLINE static Bytes load(const void* from, std::uint64_t mask) { return _mm512_maskz_loadu_epi8(mask, from); }
  PARE_INLINE static void store(void* to, Bytes value) { _mm512_storeu_si512(to, value); }
  PARE_INLINE static void store(void* to, Bytes value, std::uint64_t mask) { _mm512_mask_storeu_epi8(to, mask, value); }
  PARE_INLINE static Bytes low_bytes(Bytes a, Bytes b) { return _mm512_unpacklo_epi8(a, b); }
  PARE_INLINE static Bytes high_bytes(Bytes a, Bytes b) { return _mm512_unpackhi_epi8(a, b); }
  PARE_INLINE static Bytes low_pairs(Bytes a, Bytes b) { return _mm512_unpacklo_epi16(a, b); }
  PARE_INLINE static Bytes high_pairs(Bytes a, Bytes b) { return _mm512_unpackhi_epi16(a, b); }
  PARE_INLINE static Bytes dot(Bytes sums, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sums, a, b); }
  PARE_INLINE static Bytes rounded(Bytes sums, const float* scale, const float* bias) {
    constexpr __mmask16 kAll = 0xFFFF;  // (GCC 12 warns of its own unmasked versions)
    return _mm512_maskz_cvtps_epi32(
        kAll, _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(kAll, sums), _mm512_loadu_ps(scale), _mm512_loadu_ps(bias)));
  }
  PARE_INLINE static Bytes saturated(Bytes a, Bytes b, Bytes c, Bytes d) {
    return _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  }
  PARE_INLINE static Bytes clipped(Bytes value, Bytes low, Bytes high) {
    return _mm512_min_epu8(_mm512_max_epu8(value, low), high);
  }
};

struct NarrowVector {
  using Bytes = __m256i;
  static constexpr int kBytes = 32;
  PARE_INLINE static Bytes zeros() { return _mm256_setzero_si256(); }
  PARE_INLINE static Bytes all(std::uint8_t value) { return _mm256_set1_epi8(static_cast<char>(value)); }
  PARE_INLINE static Bytes load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  PARE_INLINE static Bytes load(const void* from, std::uint64_t mask) {
    return _mm256_maskz_loadu_epi8(static_cast<__mmask32>(mask), from);
  }
  PARE_INLINE static void store(void* to, Bytes value) { _mm256_storeu_si256(static_cast<__m256i*>(to), value); }
  PARE_INLINE static void store(void* to, Bytes value, std::uint64_t mask) {
    _mm256_mask_storeu_epi8(to, static_cast<__mmask32>(mask), value);
  }
  PARE_INLINE static Bytes low_bytes(Bytes a, Bytes b) { return _mm256_unpacklo_epi8(a, b); }
  PARE_INLINE static Bytes high_bytes(Bytes a, Bytes b) { return _mm256_unpackhi_epi8(a, b); }
  PARE_INLINE static Bytes low_pairs(Bytes a, Bytes b) { return _mm256_unpacklo_epi16(a, b); }
  PARE_INLINE static Bytes high_pairs(Bytes a, Bytes b) { return _mm256_unpackhi_epi16(a, b); }
  PARE_INLINE static Bytes dot(Bytes sums, Bytes a, Bytes b) { return _mm256_dpbusd_epi32(sums, a, b); }
  PARE_INLINE static Bytes rounded(Bytes sums, const float* scale, const float* bias) {
    return _mm256_cvtps_epi32(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(scale), _mm256_loadu_ps(bias)));
  }
  PARE_INLINE static Bytes saturated(Bytes a, Bytes b, Bytes c, Bytes d) {
    return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  }
  PARE_INLINE static Bytes clipped(Bytes value, Bytes low, Bytes high) {
    return _mm256_min_epu8(_mm256_max_epu8(value, low), high);
  }
};

constexpr int kMostTaps = 7;

// One row of results of one block of channels.
struct RowTask {
  std::array<const std::uint8_t*, kMostTaps> rows;  // of the source, at the block's first channel
  std::array<std::int64_t, kMostTaps> steps;        // from a column to the next: none in a row beyond the border
  const std::uint8_t* padding;                      // a vector
  const std::int8_t* weights;
  const float *scale, *bias;
  std::uint8_t* result;
  std::int64_t channels, width, result_width, pad_left;
  std::uint8_t low, high;
  std::uint64_t mask;
};

// A column's taps for each channel, four in the bytes of each lane.
template <class V, int kTaps, bool kMasked>
PARE_INLINE inline void read_column(const RowTask& task, std::int64_t x, typename V::Bytes* column) {
  constexpr int kQuads = quads_of(kTaps);
  typename V::Bytes taps[4 * kQuads];
  const bool inside = x >= 0 && x < task.width;
#pragma GCC unroll 8
  for (int k = 0; k < 4 * kQuads; ++k) {
    if (k >= kTaps) {
      taps[k] = V::zeros();
      continue;
    }
    const auto* from = inside ? task.rows[k] + x * task.steps[k] : task.padding;
    if constexpr (kMasked) {
      taps[k] = V::load(from, task.mask);
    } else {
      taps[k] = V::load(from);
    }
  }
#pragma GCC unroll 2
  for (int q = 0; q < kQuads; ++q) {
    const auto* four = taps + 4 * q;
    const auto a = V::low_bytes(four[0], four[1]), b = V::high_bytes(four[0], four[1]);
    const auto c = V::low_bytes(four[2], four[3]), d = V::high_bytes(four[2], four[3]);
    column[4 * q] = V::low_pairs(a, c);
    column[4 * q + 1] = V::high_pairs(a, c);
    column[4 * q + 2] = V::low_pairs(b, d);
    column[4 * q + 3] = V::high_pairs(b, d);
  }
}

template <class V, int kTaps, int kStride, bool kMasked>
PARE_TARGET void compute_row(const RowTask& task) {
  constexpr int kVectors = 4 * quads_of(kTaps), kKept = kTaps - kStride;
  using Bytes = typename V::Bytes;
  Bytes columns[kTaps][kVectors];
#pragma GCC unroll 8
  for (int k = 0; k < kKept; ++k) read_column<V, kTaps, kMasked>(task, k - task.pad_left, columns[k]);
  for (std::int64_t x = 0; x < task.result_width; ++x) {
#pragma GCC unroll 8
    for (int k = kKept; k < kTaps; ++k)
      read_column<V, kTaps, kMasked>(task, x * kStride + k - task.pad_left, columns[k]);
    Bytes sums[4] = {V::zeros(), V::zeros(), V::zeros(), V::zeros()};
#pragma GCC unroll 8
    for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v)
        sums[v % 4] = V::dot(sums[v % 4], columns[k][v], V::load(task.weights + (k * kVectors + v) * V::kBytes));
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v)
      sums[v] = V::rounded(sums[v], task.scale + v * (V::kBytes / 4), task.bias + v * (V::kBytes / 4));
    const auto result =
        V::clipped(V::saturated(sums[0], sums[1], sums[2], sums[3]), V::all(task.low), V::all(task.high));
    if constexpr (kMasked) {
      V::store(task.result + x * task.channels, result, task.mask);
    } else {
      V::store(task.result + x * task.channels, result);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kKept; ++k)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) columns[k][v] = columns[k + kStride][v];
  }
}

#undef PARE_TARGET
#undef PARE_INLINE

using ComputeRow = void (*)(const RowTask&);

template <int kTaps, int kStride>
ComputeRow row_of(bool wide, bool masked) {
  if (wide)
    return masked ? compute_row<WideVector, kTaps, kStride, true> : compute_row<WideVector, kTaps, kStride, false>;
  return masked ? compute_row<NarrowVector, kTaps, kStride, true> : compute_row<NarrowVector, kTaps, kStride, false>;
}

ComputeRow row_of(const DepthwiseShape& shape, std::int64_t width, bool masked) {
  const bool wide = width == kWide, whole = shape.stride == 1;
  if (shape.taps == 3) return whole ? row_of<3, 1>(wide, masked) : row_of<3, 2>(wide, masked);
  if (shape.taps == 5) return whole ? row_of<5, 1>(wide, masked) : row_of<5, 2>(wide, masked);
  return whole ? row_of<7, 1>(wide, masked) : row_of<7, 2>(wide, masked);
}

#endif

}  // namespace

bool DepthwiseKernel::computes(const DepthwiseShape& shape) {
  constexpr std::int64_t kFewestChannels = 16;  // with fewer, vectors are empty for the most part
#if PARE_DEPTHWISE_KERNEL
  static const bool fits_processor = __builtin_cpu_supports("avx512vnni") != 0 &&
                                     __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0;
#else
  constexpr bool fits_processor = false;
#endif
  return fits_processor && shape.channels >= kFewestChannels &&
         (shape.taps == 3 || shape.taps == 5 || shape.taps == 7) && (shape.stride == 1 || shape.stride == 2);
}

at::Tensor DepthwiseKernel::pack(const at::Tensor& weights) {
  const auto channels = weights.size(0), taps = weights.size(-1), vectors = 4 * quads_of(taps);
  auto result = at::zeros({blocks_of(channels) * kWide * taps * vectors}, at::kChar);
  const auto* from = weights.const_data_ptr<std::int8_t>();
  auto* to = result.mutable_data_ptr<std::int8_t>();
  for (std::int64_t block = 0; block < blocks_of(channels); ++block) {
    const auto width = width_of(block, channels);
    auto* start = to + block * kWide * taps * vectors;
    for (std::int64_t place = 0; place < width; ++place) {
      const auto channel = block * kWide + channel_at(place, width);
      if (channel >= channels) continue;
      const auto vector = place / (width / 4), lane = place % (width / 4);
      for (std::int64_t y = 0; y < taps; ++y)
        for (std::int64_t x = 0; x < taps; ++x)
          start[((x * vectors + y / 4 * 4 + vector) * (width / 4) + lane) * 4 + y % 4] =
              from[(channel * taps + y) * taps + x];
    }
  }
  return result;
}

DepthwiseKernel::DepthwiseKernel(const DepthwiseShape& shape, at::Tensor weights, const DepthwiseEpilogue& epilogue,
                                 std::uint8_t padding)
    : shape_(shape),
      weights_(std::move(weights)),
      scale_(in_order(epilogue.scale)),
      bias_(in_order(epilogue.bias)),
      padding_(padding),
      low_(epilogue.low),
      high_(epilogue.high) {}

void DepthwiseKernel::run(const std::uint8_t* source, std::uint8_t* result) const {
#if PARE_DEPTHWISE_KERNEL
  const auto blocks = blocks_of(shape_.channels), tasks = shape_.images * shape_.result_height * blocks;
  const auto vectors = 4 * quads_of(shape_.taps);
  std::array<std::uint8_t, kWide> padding;
  padding.fill(padding_);
#pragma omp parallel for if (tasks > 1)
  for (std::int64_t number = 0; number < tasks; ++number) {
    const auto block = number % blocks, row = number / blocks, y = row % shape_.result_height;
    const auto first = block * kWide, width = width_of(block, shape_.channels),
               used = std::min(shape_.channels - first, width);
    const auto* image = source + row / shape_.result_height * shape_.height * shape_.width * shape_.channels + first;
    RowTask task{.rows = {},
                 .steps = {},
                 .padding = padding.data(),
                 .weights = weights_.const_data_ptr<std::int8_t>() + first * shape_.taps * vectors,
                 .scale = scale_.data() + first,
                 .bias = bias_.data() + first,
                 .result = result + row * shape_.result_width * shape_.channels + first,
                 .channels = shape_.channels,
                 .width = shape_.width,
                 .result_width = shape_.result_width,
                 .pad_left = shape_.pad_left,
                 .low = low_,
                 .high = high_,
                 .mask = used == kWide ? ~std::uint64_t{0} : (std::uint64_t{1} << used) - 1};
    for (std::int64_t k = 0; k < shape_.taps; ++k) {
      const auto from = y * shape_.stride + k - shape_.pad_above;
      const bool inside = from >= 0 && from < shape_.height;
      task.rows[static_cast<std::size_t>(k)] = inside ? image + from * shape_.width * shape_.channels : padding.data();
      task.steps[static_cast<std::size_t>(k)] = inside ? shape_.channels : 0;
    }
    row_of(shape_, width, used != width)(task);
  }
#else
  static_cast<void>(source);
  static_cast<void>(result);
#endif
}

PARE_NAMESPACE_END
