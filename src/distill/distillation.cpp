#include "pare/distill/distillation.hpp"

#include <ATen/ATen.h>

#include <optional>
#include <set>

#include "distill/feature_taps.hpp"
#include "distill/teacher_answers.hpp"

PARE_NAMESPACE_BEGIN

std::vector<at::Tensor> Network::run(const Batch& inputs, const Tap& tap) const {
  return model_ ? model_->run(inputs, tap) : forward_(inputs);
}

std::vector<std::string> Network::paths() const {
  std::set<std::string> all;
  const auto add = [&](std::string path) {  // and every module around it
    while (!path.empty() && all.insert(path).second) {
      const auto dot = path.rfind('.');
      path = dot == std::string::npos ? std::string() : path.substr(0, dot);
    }
  };
  if (model_) {
    for (const auto id : model_->graph().nodes()) {
      add(model_->graph().node(id).module);
      if (!model_->graph().node(id).outputs.empty()) all.insert(model_->graph().node(id).name);
    }
  } else if (module_) {
    for (const auto& [path, tensor] : named_parameters())
      if (const auto dot = path.rfind('.'); dot != std::string::npos) add(path.substr(0, dot));
  }
  return {all.begin(), all.end()};
}

std::vector<std::pair<std::string, at::Tensor>> Network::named_parameters() const {
  std::vector<std::pair<std::string, at::Tensor>> named;
  if (model_)
    for (const auto& [path, weight] : model_->weights()) named.emplace_back(path, weight.tensor);
  if (module_) {
    for (const auto& item : module_->named_parameters()) named.emplace_back(item.key(), item.value());
    for (const auto& item : module_->named_buffers()) named.emplace_back(item.key(), item.value());
  }
  return named;
}

Network::Evaluation::Evaluation(const Network& network) : model_(network.model_), module_(network.module_) {
  if (model_) {
    training_ = model_->is_training();
    model_->eval();
  } else if (module_) {
    training_ = module_->is_training();
    for (const auto& child : module_->modules(/*include_self=*/false))
      modules_.emplace_back(child, child->is_training());
    module_->eval();
  }
}

Network::Evaluation::~Evaluation() {
  if (model_) {
    if (training_) model_->train();  // it could train before
  } else if (module_) {
    module_->train(training_);
    for (const auto& [child, training] : modules_) child->train(training);  // parents come first
  }
}

struct Distillation::State {
  Network student, teacher;
  AnyDistillationLoss loss;
  FeatureTaps student_taps, teacher_taps;
  std::vector<std::pair<std::string, double>> terms;
  std::int64_t batches = 0;
  std::size_t inputs = 0;  // of a batch; labels are behind them
  std::optional<TeacherAnswers> answers = {};

  Observation ask_teacher(const Batch& inputs) const {
    if (answers) return (*answers)(inputs);
    const at::NoGradGuard no_grad;
    const Network::Evaluation evaluation(teacher);
    return teacher_taps.run(teacher, inputs);
  }

  at::Tensor judge(DistillationBatch batch) {
    batch.teacher = ask_teacher(batch.inputs);
    at::Tensor sum;
    terms.clear();
    for (const auto& term : loss.terms(batch)) {
      if (!term.value.defined() || term.value.numel() != 1)
        fail("pare.distill.125", term.name, "the loss gives {}: a scalar is wanted",
             term.value.defined() ? fmt::format("a tensor of {} numbers", term.value.numel()) : "an undefined tensor");
      terms.emplace_back(term.name, term.value.item<double>());
      sum = sum.defined() ? sum + term.weight * term.value : term.weight * term.value;
    }
    const auto position = batches++;
    if (!sum.isfinite().all().item<bool>()) {
      std::string list;
      for (const auto& [name, value] : terms) list += fmt::format("{}{} {}", list.empty() ? "" : ", ", name, value);
      fail("pare.distill.110", "", "the loss of batch {} is not finite: {}", position, list);
    }
    return sum;
  }
};

namespace {

// A teacher that shares tensors with the student would be trained along.
void separate(const Network& student, Network& teacher) {
  if (!teacher.model()) return;
  std::set<const c10::TensorImpl*> trained;
  for (const auto& [path, tensor] : student.named_parameters()) trained.insert(tensor.unsafeGetTensorImpl());
  for (const auto& [path, tensor] : teacher.named_parameters())
    if (trained.contains(tensor.unsafeGetTensorImpl())) {
      auto own = *teacher.model();
      own.detach_weights();
      teacher = Network(std::move(own));
      return;
    }
}

}  // namespace

Distillation::Distillation(Network student, Network teacher, AnyDistillationLoss loss, const Batch& example)
    : state_(std::make_unique<State>(State{std::move(student), std::move(teacher), std::move(loss), {}, {}, {}})) {
  auto& state = *state_;
  state.inputs = example.size();
  if (!state.teacher) fail("pare.distill.101", "", "a distillation without a teacher: give .teacher = model");
  separate(state.student, state.teacher);
  FeatureRequest request{state.student.paths(), state.teacher.paths(), {}};
  state.loss.request(request);
  std::vector<std::string> own, theirs;
  for (const auto& pair : request.wanted) {
    own.push_back(pair.student);
    theirs.push_back(pair.teacher);
  }
  state.student_taps = FeatureTaps(state.student, std::move(own), "student");
  state.teacher_taps = FeatureTaps(state.teacher, std::move(theirs), "teacher");
  const at::NoGradGuard no_grad;
  DistillationBatch batch{.inputs = example, .teacher = state.ask_teacher(example)};
  const Network::Evaluation evaluation(state.student);
  batch.student = state.student_taps.run(state.student, example);
  state.loss.prepare(batch);
}

Distillation::~Distillation() = default;
Distillation::Distillation(Distillation&&) noexcept = default;
Distillation& Distillation::operator=(Distillation&&) noexcept = default;

at::Tensor Distillation::operator()(const Batch& inputs, const std::vector<at::Tensor>& outputs,
                                    const at::Tensor& targets) {
  DistillationBatch batch{.inputs = inputs, .targets = targets};
  for (const auto& output : outputs) batch.student.outputs.push_back(in_full_precision(output));
  if (const auto& watch = state_->student_taps.watch()) batch.student.features = watch->take();
  return state_->judge(std::move(batch));
}

at::Tensor Distillation::step(const Batch& inputs, const at::Tensor& targets) {
  DistillationBatch batch{.inputs = inputs, .targets = targets};
  batch.student = state_->student_taps.run(state_->student, inputs);
  return state_->judge(std::move(batch));
}

std::unique_ptr<Interception> Distillation::watch() {
  auto watch = state_->student_taps.watch();
  // Without features to see there is nothing to watch for, and calls stay as fast as they were.
  return watch ? std::make_unique<Interception>(std::move(watch)) : nullptr;
}

void Distillation::cache_teacher(const TeacherCache& cache) {
  auto& state = *state_;
  state.answers.reset();
  state.answers.emplace(cache, state.inputs, fingerprint_of(state.teacher, state.teacher_taps.paths()),
                        [&](const Batch& inputs) { return state.ask_teacher(inputs); });
}

std::vector<at::Tensor> Distillation::parameters() const { return state_->loss.parameters(); }

const std::vector<std::pair<std::string, double>>& Distillation::terms() const { return state_->terms; }

PARE_NAMESPACE_END
