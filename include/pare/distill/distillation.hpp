#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pare/capture/interceptor.hpp"
#include "pare/distill/any_distillation_loss.hpp"
#include "pare/distill/knowledge_distillation.hpp"
#include "pare/distill/network.hpp"
#include "pare/distill/teacher_cache.hpp"

PARE_NAMESPACE_BEGIN

/// A loss against a teacher for the user's own training loop.
///
///     pare::Distillation distillation{student, teacher, {example}, pare::Hints{{"layer2", "layer3"}}};   // once
///     auto watch = distillation.watch();                               // only for losses that look at features
///     for (auto& batch : loader) {
///       optimizer.zero_grad();
///       auto output = student->forward(batch.data);
///       auto loss = cross_entropy(output, batch.target) + distillation(batch.data, output);
///       loss.backward(); optimizer.step();
///     }
///
/// The teacher runs in evaluation mode without gradients, and is never changed; a Model that shares tensors with the
/// student gets its own first. Neither network is touched to see its features: in a Model they are read from its graph,
/// in a module's own forward the dispatcher is watched. A path stands for what that module produced last: the result of
/// the last call with its weights, or of calls behind it that keep the shape (an activation, a residual sum).
///
/// Projectors that a loss learns are in `parameters()`, for the optimizer: `optimizer.add_param_group({…})`.
class Distillation {
 public:
  /// @param student a Model, which is followed, or a module, holder or `shared_ptr`, which must outlive this
  /// @param example one batch of inputs: both networks run on it once, in evaluation mode
  /// @throws Error `pare.distill.101` no teacher, `.102` a path that a network does not have (the nearest are named),
  ///         `.103` a stack without layers, `.104` shapes that a loss cannot compare, `.107` inputs that a forward does
  ///         not take, `.108` features of a network that is a mere callable, `.112` a setting of a loss out of range
  template <class Student>
  requires(!std::same_as<std::remove_cvref_t<Student>, Distillation>)
      Distillation(Student& student, Network teacher, const Batch& example,
                   AnyDistillationLoss loss = KnowledgeDistillation{})
      : Distillation(network_of(student), std::move(teacher), std::move(loss), example) {}
  ~Distillation();
  Distillation(Distillation&&) noexcept;
  Distillation& operator=(Distillation&&) noexcept;

  /// The loss of one batch that the student has just run forward on. Losses that look at features want `watch()` in
  /// scope during that forward.
  /// @throws Error `pare.distill.105` features that were not seen, `.106` a loss that wants labels, `.110` a loss that
  ///         is not finite (it says which batch, counted from 0), `.111` labels that are no classes of the student,
  ///         `.112` a setting of a loss out of range, `.125` a loss that is no scalar
  at::Tensor operator()(const Batch& inputs, const std::vector<at::Tensor>& outputs, const at::Tensor& targets = {});
  at::Tensor operator()(const at::Tensor& input, const at::Tensor& output, const at::Tensor& targets = {}) {
    return (*this)(Batch{input}, std::vector<at::Tensor>{output}, targets);
  }
  /// The same with the student run here. @return the loss
  at::Tensor step(const Batch& inputs, const at::Tensor& targets = {});

  /// Watches the forwards of this thread for the student's features, while it lives.
  [[nodiscard]] std::unique_ptr<Interception> watch();

  /// From now on the teacher's answers come from a file, which is written first where it is not there.
  /// @throws Error `pare.distill.150` to `.153`, as `TeacherCache` has them; the calls above then throw `.152` for a
  ///         sample that is not in it
  void cache_teacher(const TeacherCache& cache);

  /// What the losses learn besides the student.
  [[nodiscard]] std::vector<at::Tensor> parameters() const;
  /// The terms of the last loss, by name, before their weights.
  [[nodiscard]] const std::vector<std::pair<std::string, double>>& terms() const;

 private:
  struct State;
  template <class Student>
  static Network network_of(Student& student) {
    if constexpr (std::same_as<std::remove_cv_t<Student>, Model>) {
      return Network::following(student);
    } else {
      return Network(student);
    }
  }
  Distillation(Network student, Network teacher, AnyDistillationLoss loss, const Batch& example);

  std::unique_ptr<State> state_;
};

PARE_NAMESPACE_END
