#include "execute/packed_integers.hpp"

#include <ATen/ATen.h>

PARE_NAMESPACE_BEGIN

namespace {

int fewest_bits(const at::Tensor& integers) {
  if (integers.numel() == 0) return 8;
  const auto [low, high] = at::aminmax(integers);
  for (const int bits : {2, 4}) {
    const int half = 1 << (bits - 1);
    if (low.item<std::int64_t>() >= -half && high.item<std::int64_t>() < half) return bits;
  }
  return 8;
}

}  // namespace

PackedIntegers::PackedIntegers(const at::Tensor& integers)
    : sizes_(integers.sizes().begin(), integers.sizes().end()), bits_(fewest_bits(integers)) {
  const auto flat = integers.contiguous();
  const auto* from = flat.data_ptr<std::int8_t>();
  const auto count = flat.numel(), in_byte = std::int64_t{8 / bits_};
  bytes_ = at::zeros({(count + in_byte - 1) / in_byte}, at::kByte);
  auto* to = bytes_.data_ptr<std::uint8_t>();
  const unsigned mask = (1U << static_cast<unsigned>(bits_)) - 1U;
  for (std::int64_t i = 0; i < count; ++i)
    to[i / in_byte] |= static_cast<std::uint8_t>((static_cast<unsigned>(from[i]) & mask)
                                                 << static_cast<unsigned>(i % in_byte * bits_));
}

at::Tensor PackedIntegers::unpack() const {
  auto result = at::empty(sizes_, at::kChar);
  auto* to = result.data_ptr<std::int8_t>();
  const auto* from = bytes_.data_ptr<std::uint8_t>();
  const auto in_byte = std::int64_t{8 / bits_};
  const int rest = 8 - bits_;
  for (std::int64_t i = 0; i < result.numel(); ++i) {
    // To the top of the byte, and back with the sign.
    const auto top = static_cast<std::uint8_t>(from[i / in_byte] >> static_cast<unsigned>(i % in_byte * bits_)
                                                                        << static_cast<unsigned>(rest));
    to[i] = static_cast<std::int8_t>(static_cast<std::int8_t>(top) >> rest);
  }
  return result;
}

PARE_NAMESPACE_END
