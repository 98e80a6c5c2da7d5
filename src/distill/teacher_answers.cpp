#include "distill/teacher_answers.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <bit>
#include <filesystem>
#include <optional>
#include <utility>

#include "core/fingerprint.hpp"
#include "pare/checkpoint/safetensors.hpp"
#include "pare/graph/text.hpp"

PARE_NAMESPACE_BEGIN

namespace {

constexpr auto kAnswersFormat = "pare.teacher_answers";
constexpr auto kAnswersVersion = "1";

// The key of each row of a batch: all its inputs, their types and sizes among them.
std::vector<std::int64_t> keys_of(const Batch& inputs) {
  if (inputs.empty() || inputs[0].dim() == 0)
    fail("pare.distill.150", "", "a batch of a cached teacher has samples along the first axis of every input");
  const auto rows = inputs[0].size(0);
  std::vector<at::Tensor> kept;
  Fingerprint common;
  for (const auto& input : inputs) {
    if (input.dim() == 0 || input.size(0) != rows)
      fail("pare.distill.150", "", "a batch of a cached teacher has samples along the first axis of every input");
    kept.push_back(input.detach().cpu().contiguous());
    common.add(fmt::format("{} [{}]", toString(input.scalar_type()), fmt::join(input.sizes().slice(1), ", ")));
  }
  std::vector<std::int64_t> keys;
  for (std::int64_t row = 0; row < rows; ++row) {
    auto key = common;
    for (const auto& input : kept) {
      const auto bytes = input.nbytes() / static_cast<std::size_t>(rows);
      key.add(static_cast<const char*>(input.const_data_ptr()) + static_cast<std::size_t>(row) * bytes, bytes);
    }
    keys.push_back(std::bit_cast<std::int64_t>(key.number()));
  }
  return keys;
}

Batch inputs_of(const Batch& batch, std::size_t inputs) {
  return batch.size() <= inputs ? batch : Batch(batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(inputs));
}

template <class Visit>
void each_answer(const Observation& observation, const Visit& visit) {
  for (std::size_t i = 0; i < observation.outputs.size(); ++i)
    visit(fmt::format("output.{}", i), observation.outputs[i]);
  for (const auto& [path, feature] : observation.features) visit("feature." + path, feature);
}

}  // namespace

TeacherAnswers::TeacherAnswers(const TeacherCache& cache, std::size_t inputs, const std::string& teacher,
                               const Ask& ask)
    : path_(cache.path) {
  if (cache.samples.empty())
    fail("pare.distill.150", path_,
         "which samples does the teacher answer to? This training data does not know: give .samples");
  const auto folder = std::filesystem::path(path_).parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder))
    fail("pare.distill.150", path_, "there is no folder {}", folder.string());
  if (std::filesystem::exists(path_)) {
    read(path_, teacher);
    index();
    check(cache, inputs, ask);
  } else {
    compute(cache, inputs, teacher, ask);
    index();
  }
}

void TeacherAnswers::compute(const TeacherCache& cache, std::size_t inputs, const std::string& teacher,
                             const Ask& ask) {
  std::vector<std::int64_t> keys;
  std::map<std::string, std::vector<at::Tensor>> parts;
  for (const auto& batch : cache.samples) {
    const auto x = inputs_of(batch, inputs);
    const auto now = keys_of(x);
    keys.insert(keys.end(), now.begin(), now.end());
    const auto answer = ask(x);
    each_answer(answer, [&](const std::string& name, const at::Tensor& value) {
      if (!value.defined() || value.dim() == 0 || value.size(0) != static_cast<std::int64_t>(now.size()))
        fail("pare.distill.150", name, "the teacher gives [{}] to {} samples: only a row for each can be cached",
             value.defined() ? fmt::format("{}", fmt::join(value.sizes(), ", ")) : "nothing", now.size());
      parts[name].push_back(value.cpu().contiguous());
    });
  }
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, list] : parts) tensors[name] = at::cat(list);
  keys_ = at::tensor(keys, at::kLong);
  tensors["keys"] = keys_;
  save_safetensors(path_, tensors,
                   {{"format", kAnswersFormat},
                    {"version", kAnswersVersion},
                    {"teacher", teacher},
                    {"answers", fmt::format("{}", parts.size())}});
  read(path_, teacher);  // what is trained on is what a later process will read
}

void TeacherAnswers::read(const std::string& path, const std::string& teacher) {
  std::optional<SafeTensors> opened;
  try {
    opened.emplace(path);
  } catch (const Error& error) {
    fail("pare.distill.153", path, "this file is damaged, remove it: {}", error.what());
  }
  const auto& file = *opened;
  const auto text = [&](const char* key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  if (text("format") != kAnswersFormat || text("version") != kAnswersVersion || !file.contains("keys"))
    fail("pare.distill.153", path, "this file holds no teacher's answers of this version");
  if (text("teacher") != teacher)
    fail("pare.distill.151", path,
         "these are the answers of another teacher, or of other layers: remove the file or give another path");
  keys_ = file.at("keys");
  all_ = {};
  while (file.contains(fmt::format("output.{}", all_.outputs.size())))
    all_.outputs.push_back(file.at(fmt::format("output.{}", all_.outputs.size())));
  for (const auto& [name, tensor] : file.tensors())
    if (name.starts_with("feature.")) all_.features[name.substr(8)] = tensor;
  bool whole = keys_.dim() == 1 && keys_.scalar_type() == at::kLong &&
               text("answers") == fmt::format("{}", all_.outputs.size() + all_.features.size());
  each_answer(all_, [&](const std::string&, const at::Tensor& value) {
    whole = whole && value.dim() > 0 && value.size(0) == keys_.numel();
  });
  if (!whole) fail("pare.distill.153", path, "this file lacks some of the teacher's answers: remove it");
}

void TeacherAnswers::index() {
  const auto* keys = keys_.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < keys_.numel(); ++i) positions_.emplace(keys[i], i);
}

// Whether the file is of these samples, and of a teacher that answers so: of a callable nothing else is known.
void TeacherAnswers::check(const TeacherCache& cache, std::size_t inputs, const Ask& ask) const {
  std::size_t samples = 0, missing = 0;
  bool first = true;
  for (const auto& batch : cache.samples) {
    const auto x = inputs_of(batch, inputs);
    for (const auto key : keys_of(x)) {
      ++samples;
      if (!positions_.contains(key)) ++missing;
    }
    if (!std::exchange(first, false) || missing > 0) continue;
    const auto live = ask(x), kept = (*this)(x);
    each_answer(live, [&](const std::string& name, const at::Tensor& value) {
      const auto& other =
          name.starts_with("output.") ? kept.output(std::stoul(name.substr(7))) : kept.feature(name.substr(8));
      const auto size = value.abs().max().item<double>();
      if (value.sizes() != other.sizes() || !at::allclose(value, other, 1e-3, 1e-3 * size, /*equal_nan=*/true))
        fail("pare.distill.151", path_,
             "the teacher answers otherwise than in this file ({}): remove it or give "
             "another path",
             name);
    });
  }
  if (missing > 0)
    fail("pare.distill.152", path_,
         "the file lacks {} of {} samples: it is of other data; remove it or give another path", missing, samples);
}

Observation TeacherAnswers::operator()(const Batch& inputs) const {
  std::vector<std::int64_t> rows;
  for (const auto key : keys_of(inputs)) {
    const auto found = positions_.find(key);
    if (found == positions_.end())
      fail("pare.distill.152", path_,
           "sample {} of this batch is not among those that the teacher has answered: augmented data cannot be cached",
           rows.size());
    rows.push_back(found->second);
  }
  const auto index = at::tensor(rows, at::kLong);
  const auto pick = [&](const at::Tensor& all) { return all.index_select(0, index).to(inputs[0].device()); };
  Observation answers;
  for (const auto& output : all_.outputs) answers.outputs.push_back(pick(output));
  for (const auto& [path, feature] : all_.features) answers.features[path] = pick(feature);
  return answers;
}

std::string fingerprint_of(const Network& network, const std::vector<std::string>& features) {
  Fingerprint all;
  for (const auto& path : features) all.add(path);
  if (const auto* model = network.model()) all.add(print(model->graph()));
  for (const auto& [path, tensor] : network.named_parameters()) {
    const auto values = tensor.detach().cpu().contiguous();
    all.add(fmt::format("{} {} [{}]", path, toString(values.scalar_type()), fmt::join(values.sizes(), ", ")));
    all.add(values.const_data_ptr(), values.nbytes());
  }
  return all.text();
}

PARE_NAMESPACE_END
