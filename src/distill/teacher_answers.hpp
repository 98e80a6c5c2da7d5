#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "pare/distill/network.hpp"
#include "pare/distill/observation.hpp"
#include "pare/distill/teacher_cache.hpp"

PARE_NAMESPACE_BEGIN

/// What a teacher answers to each of many samples, by the samples' contents.
class TeacherAnswers {
 public:
  using Ask = std::function<Observation(const Batch& inputs)>;

  /// Reads the file of `cache`, or asks the teacher and writes it.
  /// @param inputs   how many tensors of a batch are inputs; those behind them are labels
  /// @param teacher  `fingerprint_of` the teacher
  TeacherAnswers(const TeacherCache& cache, std::size_t inputs, const std::string& teacher, const Ask& ask);
  /// The answers to a batch, on its device. @throws Error `pare.distill.152`
  [[nodiscard]] Observation operator()(const Batch& inputs) const;

 private:
  void compute(const TeacherCache& cache, std::size_t inputs, const std::string& teacher, const Ask& ask);
  void read(const std::string& path, const std::string& teacher);
  void check(const TeacherCache& cache, std::size_t inputs, const Ask& ask) const;
  void index();

  std::string path_;
  at::Tensor keys_;                                           // `[samples]`
  Observation all_;                                           // samples along the first axis
  std::unordered_map<std::int64_t, std::int64_t> positions_;  // key → sample
};

/// Tells teachers apart, and what is asked of them, by their weights and, of a Model, its graph.
std::string fingerprint_of(const Network& network, const std::vector<std::string>& features);

PARE_NAMESPACE_END
