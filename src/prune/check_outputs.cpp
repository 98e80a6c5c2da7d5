#include "prune/check_outputs.hpp"

#include <ATen/ATen.h>

#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN

void check_outputs(std::string_view id, const std::vector<std::vector<at::Tensor>>& batches) {
  for (std::size_t b = 0; b < batches.size(); ++b)
    for (const auto& output : batches[b]) {
      if (!output.defined() || !output.is_floating_point()) continue;
      if (output.numel() == 0) fail(id, "", "calibration batch {} holds no samples", b);
      if (!output.isfinite().all().item<bool>())
        fail(id, "", "the model returns NaN or infinite values for calibration batch {}", b);
    }
}

PARE_NAMESPACE_END
