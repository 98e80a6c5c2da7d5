// The windows of a convolution, gathered at some of its positions, against LibTorch's own `unfold`.
#include "src/graph/features.hpp"
#include "src/graph/sampled_windows.hpp"

#include <torch/torch.h>

#include "tests/support/catch.hpp"

namespace {

pare::MatrixForm depthwise(int64_t channels) {
  pare::MatrixForm form;
  form.groups = channels;
  form.outputs = 1;
  form.features = 6;
  form.kernel = {3, 2};
  form.stride = {2, 1};
  form.padding = {1, 2};
  form.dilation = {1, 2};
  return form;
}

// [groups, N * positions, features]
torch::Tensor unfolded(const pare::MatrixForm& form, const torch::Tensor& x) {
  const auto columns = torch::im2col(x.contiguous(), form.kernel, form.dilation, form.padding, form.stride);
  return columns.view({x.size(0), form.groups, form.features, -1})
      .permute({1, 0, 3, 2})
      .reshape({form.groups, -1, form.features});
}

}  // namespace

TEST_CASE("windows of a convolution, however its input lies in memory", "[graph]") {
  torch::manual_seed(0);
  const auto form = depthwise(4);
  const auto plain = torch::randn({3, 4, 9, 7});
  CHECK(torch::equal(pare::features_of(form, plain, 1 << 20), unfolded(form, plain)));
  const auto last = plain.contiguous(torch::MemoryFormat::ChannelsLast);
  CHECK(torch::equal(pare::features_of(form, last, 1 << 20), unfolded(form, plain)));
  const auto wide = torch::randn({3, 9, 9, 7}, torch::kDouble);
  for (const auto& part :
       {wide.narrow(1, 3, 4), wide.to(torch::kBFloat16).narrow(1, 3, 4), wide.flip(2).narrow(1, 0, 4)})
    CHECK(torch::equal(pare::features_of(form, part, 1 << 20), unfolded(form, part.to(torch::kFloat))));
  auto whole = depthwise(1);
  whole.features = 24;
  CHECK(torch::equal(pare::features_of(whole, plain, 1 << 20), unfolded(whole, plain)));
}

TEST_CASE("windows of any kernel, of some groups at a time", "[graph]") {
  torch::manual_seed(1);
  const auto x = torch::randn({2, 6, 11, 10});
  for (const int64_t width : {1, 3, 4, 5})
    for (const int64_t dilation : {1, 2}) {
      INFO("kernel of 3 by " << width << ", dilation " << dilation);
      auto form = depthwise(3);  // of two channels each
      form.kernel = {3, width};
      form.features = 2 * 3 * width;
      form.dilation = {1, dilation};
      const auto all = unfolded(form, x);
      CHECK(torch::equal(pare::features_of(form, x, 1 << 20), all));
      const pare::SampledWindows windows(form, x, 1 << 20);
      CHECK(torch::equal(windows.of_groups(1, 2), all.narrow(0, 1, 2)));
    }
}

TEST_CASE("samples of windows are among all of them, spread over the image", "[graph]") {
  torch::manual_seed(0);
  const auto form = depthwise(1);
  const auto x = torch::arange(2 * 40 * 40, torch::kFloat).view({2, 1, 40, 40});
  const auto all = unfolded(form, x)[0], some = pare::features_of(form, x, 100)[0];
  CHECK(some.size(0) >= 50);
  CHECK(some.size(0) <= 200);
  for (int64_t i = 0; i < some.size(0); ++i) CHECK(all.eq(some[i]).all(1).sum().item<int64_t>() >= 1);
  CHECK(some.max().item<float>() > 1.8F * 40 * 40);
}
