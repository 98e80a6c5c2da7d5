#include "examples/models/captured.hpp"

namespace models {

pare::CaptureOptions varying_sizes(const Bundle& bundle) {
  pare::CaptureOptions options;
  if (bundle.input.kind == data::InputFormat::Kind::kTokens)
    options.dims = {{"batch", {{0, 0}, {1, 0}}}, {"length", {{0, 1}, {1, 1}}}};
  return options;
}

Captured captured(const std::string& name, std::uint64_t seed, bool varying) {
  torch::manual_seed(seed);
  auto bundle = make(name);
  settle(bundle);
  bundle.module->eval();
  auto model = pare::capture_forward(*bundle.module, bundle.forward, bundle.example(2),
                                     varying ? varying_sizes(bundle) : pare::CaptureOptions{});
  return {std::move(bundle), std::move(model)};
}

}  // namespace models
