#pragma once

#include <string>

#include "pare/core/batches.hpp"

PARE_NAMESPACE_BEGIN

/// Keeps what a teacher answers, outputs and features alike, in a file: it runs once over the samples, and never again
/// while they are trained on, in this process or in a later one.
///
///     pare::Distiller{.teacher = teacher, .training = data, .cache = {"run/teacher.safetensors"}}
///     distillation.cache_teacher({.path = "run/teacher.safetensors", .samples = batches});     // in one's own loop
///
/// Samples are told apart by their contents, whatever their order and their batch, so the data may be shuffled, but not
/// augmented: a sample that the file does not have is an error. Of one teacher, several students with the same losses
/// can share a file. Answers have samples along their first axis; all are held in memory. They are computed in the
/// precision of the networks themselves, under `.mixed` too.
///
/// The file is written whole or not at all, before the first step, and depends on nothing but the samples: with a
/// checkpoint, a training that is killed ends bit for bit where it would have ended.
///
/// Errors: `pare.distill.150` no samples, no such folder, or answers without a row for each sample; `.151` the file is
/// of another teacher, or of other layers; `.152` samples that the file does not have; `.153` a file that is damaged or
/// no such cache; `pare.checkpoint.121` the file cannot be written.
struct TeacherCache {
  std::string path = {};  ///< safetensors; read where it is there, else written. Empty: no cache
  /// Every sample of the training, as it is trained on. Empty: `TrainingData::samples()`.
  Batches samples = {};
};

PARE_NAMESPACE_END
