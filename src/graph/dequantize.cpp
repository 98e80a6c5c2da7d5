#include "graph/dequantize.hpp"

#include <ATen/ATen.h>

PARE_NAMESPACE_BEGIN

at::Tensor unpack_integers(const at::Tensor& stored, at::IntArrayRef sizes) {
  if (stored.scalar_type() == at::kChar) return stored.reshape(sizes);
  const auto count = c10::multiply_integers(sizes);
  TORCH_CHECK(stored.scalar_type() == at::kByte && stored.dim() == 1 && stored.numel() == (count + 1) / 2,
              "integers of 4 bits lie in uint8 [", (count + 1) / 2, "], not in ", stored.scalar_type(), " ",
              stored.sizes());
  // To the top of a byte, and back with the sign.
  const auto bytes = stored.view(at::kChar);
  const auto pairs = at::stack({bytes.bitwise_left_shift(4), bytes}, 1).flatten();
  return pairs.narrow(0, 0, count).bitwise_right_shift(4).view(sizes);
}

at::Tensor dequantize(const at::Tensor& integers, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                      at::IntArrayRef sizes) {
  auto numbers = unpack_integers(integers, sizes).to(at::kFloat);
  if (zero_point && zero_point->defined()) numbers = numbers - zero_point->to(at::kFloat);
  return numbers * scale;
}

PARE_NAMESPACE_END
