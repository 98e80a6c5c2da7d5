#include "pare/distill/teacher_cache.hpp"

#include <torch/torch.h>

#include <filesystem>
#include <fstream>

#include "pare/capture/capture.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/distill/distillation.hpp"
#include "pare/distill/distiller.hpp"
#include "pare/distill/hints.hpp"
#include "pare/pass/apply.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

namespace nn = torch::nn;

struct CachedNetImpl : nn::Module {
  explicit CachedNetImpl(int64_t width)
      : first(register_module("first", nn::Linear(nn::LinearOptions(6, width).bias(false)))),
        norm(register_module("norm", nn::BatchNorm1d(width))),
        last(register_module("last", nn::Linear(width, 3))) {}
  torch::Tensor forward(const torch::Tensor& x) {
    ++calls;
    return last(torch::relu(norm(first(x))));
  }
  nn::Linear first;
  nn::BatchNorm1d norm;
  nn::Linear last;
  int calls = 0;
};
TORCH_MODULE(CachedNet);

CachedNet make_cached(int64_t width, uint64_t seed) {
  torch::manual_seed(seed);
  return CachedNet(width);
}

// 30 rows: with batches of 8, every epoch leaves out six of them, not always the same.
torch::Tensor cached_rows() {
  torch::manual_seed(4);
  return torch::randn({30, 6});
}

pare::AnyDistillationLoss logits_and_features() {
  return pare::KnowledgeDistillation{} + pare::Hints{{"norm", "norm"}};
}

pare::Distiller tutor_with(pare::Network teacher, const torch::Tensor& x, const std::string& path) {
  return {.teacher = std::move(teacher),
          .loss = logits_and_features(),
          .training = pare::TrainingData::shuffled({x}, 8, 3),
          .fit = {.epochs = 5},
          .cache = {.path = path}};
}

bool same_numbers(const pare::Model& a, const pare::Model& b) {
  for (const auto& [path, weight] : a.weights())
    if (!torch::equal(weight.tensor, b.weight(path))) {
      UNSCOPED_INFO(path << " differs");
      return false;
    }
  return true;
}

}  // namespace

TEST_CASE("a cached teacher runs once, and teaches what it would have taught", "[distill][cache]") {
  const ScratchFolder scratch;
  const auto path = scratch.file("teacher.safetensors");
  const auto x = cached_rows();
  auto student = make_cached(4, 1);
  const auto model = pare::capture(student, x.narrow(0, 0, 2));
  auto teacher = make_cached(8, 2);
  teacher->eval();
  const auto straight = pare::apply(tutor_with(teacher, x, ""), model).model;
  CHECK(teacher->calls == 1 + 5 * 3);  // the example, then every batch

  teacher->calls = 0;
  const auto cached = pare::apply(tutor_with(teacher, x, path), model).model;
  CHECK(teacher->calls == 1 + 4);  // the example, then every sample once
  CHECK(torch::allclose(cached(x), straight(x), 1e-3, 1e-3));
  CHECK(scratch.count() == 1);

  // Another process has the file: one batch is asked, to see whether the teacher is still the same.
  teacher->calls = 0;
  const auto written = contents(path);
  const auto again = pare::apply(tutor_with(teacher, x, path), model).model;
  CHECK(teacher->calls == 1 + 1);
  CHECK(same_numbers(again, cached));
  CHECK(contents(path) == written);
  // And samples of another order, in other batches, fewer of them.
  auto fewer = tutor_with(teacher, x.flip(0).narrow(0, 3, 20), path);
  fewer.training = pare::TrainingData::shuffled({x.flip(0).narrow(0, 3, 20)}, 5, 9);
  CHECK_NOTHROW(pare::apply(fewer, model));
}

TEST_CASE("in one's own loop the cached answers are the teacher's", "[distill][cache]") {
  const ScratchFolder scratch;
  const auto x = cached_rows();
  auto student = make_cached(4, 1), teacher = make_cached(8, 2);
  teacher->eval();
  const pare::Batches samples{x.narrow(0, 0, 16), x.narrow(0, 16, 14)};
  pare::Distillation live(student, teacher, {x}, logits_and_features());
  pare::Distillation cached(student, teacher, {x}, logits_and_features());
  cached.cache_teacher({.path = scratch.file("a"), .samples = samples});
  const auto part = x.index_select(0, torch::tensor({29, 3, 3, 17}));
  student->eval();
  CHECK(cached.step({part}).item<double>() == Approx(live.step({part}).item<double>()).epsilon(1e-5));
  // A callable that nothing is known of but its answers, and what is not of floats.
  const auto service = [&](const pare::Batch& inputs) {
    const auto logits = teacher->forward(inputs[0]);
    return std::vector<at::Tensor>{logits, logits.argmax(1)};
  };
  pare::Distillation by_service(student, service, {x});
  by_service.cache_teacher({.path = scratch.file("b"), .samples = samples});
  teacher->calls = 0;
  CHECK(by_service.step({part}).item<double>() > 0);
  CHECK(teacher->calls == 0);
  // Labels behind the inputs are none of the teacher's business.
  pare::Distillation labelled(student, teacher, {x}, logits_and_features());
  CHECK_NOTHROW(labelled.cache_teacher(
      {.path = scratch.file("a"), .samples = std::vector<pare::Batch>{{x, torch::zeros({30}, torch::kLong)}}}));
}

TEST_CASE("a cache of another teacher or of other data is refused", "[distill][cache]") {
  const ScratchFolder scratch;
  const auto path = scratch.file("teacher.safetensors");
  const auto x = cached_rows();
  auto student = make_cached(4, 1), teacher = make_cached(8, 2);
  const auto attempt = [&](pare::Network by, const torch::Tensor& samples, pare::AnyDistillationLoss loss) {
    pare::Distillation distillation(student, std::move(by), {x}, std::move(loss));
    distillation.cache_teacher({.path = path, .samples = pare::Batches{samples}});
  };
  attempt(teacher, x, logits_and_features());
  const auto good = contents(path);
  // Another teacher: other weights, another kind, other layers, other data.
  auto other = make_cached(8, 3);
  CHECK(raises("pare.distill.151", [&] { attempt(other, x, logits_and_features()); }));
  CHECK(raises("pare.distill.151", [&] { attempt(pare::capture(teacher, x), x, logits_and_features()); }));
  CHECK(raises("pare.distill.151", [&] { attempt(teacher, x, pare::KnowledgeDistillation{}); }));
  CHECK(raises("pare.distill.152", [&] { attempt(teacher, x + 1, logits_and_features()); }));
  CHECK(raises("pare.distill.152", [&] { attempt(teacher, torch::cat({x, x + 1}), logits_and_features()); }));
  CHECK(raises("pare.distill.152", [&] { attempt(teacher, x.to(torch::kDouble), logits_and_features()); }));
  CHECK(contents(path) == good);
  // Augmented data: the sample in the training is not the one that was answered.
  pare::Distillation distillation(student, teacher, {x}, logits_and_features());
  distillation.cache_teacher({.path = path, .samples = pare::Batches{x}});
  CHECK(raises("pare.distill.152", [&] { distillation.step({x.narrow(0, 0, 4) + 0.01}); }));
  // Callables have no weights to tell them apart: their answers do.
  std::filesystem::remove(path);
  double factor = 1;
  const auto service = [&](const pare::Batch& inputs) {
    return std::vector<at::Tensor>{factor * teacher->forward(inputs[0])};
  };
  attempt(service, x, pare::KnowledgeDistillation{});
  attempt(service, x, pare::KnowledgeDistillation{});
  factor = 1.5;
  CHECK(raises("pare.distill.151", [&] { attempt(service, x, pare::KnowledgeDistillation{}); }));
}

TEST_CASE("a cache file that is cut short, changed or no cache at all is refused", "[distill][cache]") {
  const ScratchFolder scratch;
  const auto path = scratch.file("teacher.safetensors");
  const auto x = cached_rows();
  auto student = make_cached(4, 1), teacher = make_cached(8, 2);
  const auto model = pare::capture(student, x.narrow(0, 0, 2));
  const auto tutor = tutor_with(teacher, x, path);
  static_cast<void>(pare::apply(tutor, model));
  const auto good = contents(path);
  const auto before = model(x).detach();
  const auto attempt = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    return raises("pare.distill.153", [&] { static_cast<void>(pare::apply(tutor, model)); });
  };
  for (size_t size = 0; size < good.size(); size += 97) {
    INFO(size);
    CHECK(attempt(good.substr(0, size)));
  }
  CHECK(attempt("not a file of tensors"));
  CHECK(attempt(good + "x"));
  // Whole files that are something else, or lack a part.
  const pare::SafeTensors file(good, path);
  auto tensors = file.tensors();
  for (auto& [name, tensor] : tensors) tensor = tensor.clone();
  const auto metadata = file.metadata();
  const auto attempt_file = [&](const std::map<std::string, at::Tensor>& all,
                                const std::map<std::string, std::string>& texts) {
    pare::save_safetensors(path, all, texts);
    return raises("pare.distill.153", [&] { static_cast<void>(pare::apply(tutor, model)); });
  };
  CHECK(attempt_file({{"a", torch::ones({1})}}, {}));
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    auto fewer = tensors;
    fewer.erase(name);
    CHECK(attempt_file(fewer, metadata));
    auto shorter = tensors;
    shorter[name] = tensor.narrow(0, 0, 20).clone();
    CHECK(attempt_file(shorter, metadata));
  }
  CHECK(torch::equal(model(x), before));
}

TEST_CASE("a cache says what it wants", "[distill][cache]") {
  const ScratchFolder scratch;
  const auto x = cached_rows();
  auto student = make_cached(4, 1), teacher = make_cached(8, 2);
  const auto model = pare::capture(student, x.narrow(0, 0, 2));
  auto tutor = tutor_with(teacher, x, scratch.file("none/teacher"));
  CHECK(raises("pare.distill.150", [&] { static_cast<void>(pare::apply(tutor, model)); }));
  tutor.cache.path = scratch.file("teacher");
  tutor.training = pare::TrainingData([&](std::int64_t) { return pare::Batches{x}; });
  CHECK(raises("pare.distill.150", [&] { static_cast<void>(pare::apply(tutor, model)); }));
  tutor.cache.samples = pare::Batches{x};
  CHECK_NOTHROW(pare::apply(tutor, model));
  // Answers that are not one for each sample.
  const auto mean = [&](const pare::Batch& inputs) {
    return std::vector<at::Tensor>{teacher->forward(inputs[0]), inputs[0].mean()};
  };
  pare::Distillation distillation(student, mean, {x});
  CHECK(raises("pare.distill.150",
               [&] { distillation.cache_teacher({.path = scratch.file("mean"), .samples = pare::Batches{x}}); }));
  CHECK(scratch.count() == 1);
}
