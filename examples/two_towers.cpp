// Images and sentences in one space: towers trained on Fashion-MNIST and captions of its classes, distilled to smaller
// towers, and those quantized. The teacher says how alike each picture of a batch is to each caption; the student
// learns its rows (which caption for a picture) and its columns (which picture for a caption).
//
//   build/examples/two_towers $PARE_DATA/fashion_mnist
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <map>
#include <sstream>

#include "examples/data/dataset.hpp"
#include "examples/models/two_tower.hpp"
#include "examples/program.hpp"
#include "pare/analysis/weight_storage.hpp"
#include "pare/capture/capture.hpp"
#include "pare/distill/distiller.hpp"
#include "pare/execute/compile.hpp"
#include "pare/pass/apply.hpp"
#include "pare/quantize/quantizer.hpp"

namespace {

struct Options {
  std::string folder;
  std::int64_t teacher_samples = 20000, samples = 2000;
  int teacher_epochs = 3, epochs = 30, seeds = 3;
};

// Every caption there is: `ids` `[captions, words]`, padded in front, and the class that each one is of.
struct Captions {
  torch::Tensor ids, classes;
  std::int64_t words = 0;  // in the vocabulary
};

Captions make_captions() {
  const std::vector<std::vector<std::string>> names{{"t-shirt", "top"},      {"trousers", "pair of trousers"},
                                                    {"pullover", "sweater"}, {"dress", "gown"},
                                                    {"coat", "jacket"},      {"sandal", "open shoe"},
                                                    {"shirt", "blouse"},     {"sneaker", "sports shoe"},
                                                    {"bag", "handbag"},      {"ankle boot", "boot"}};
  constexpr std::size_t kWords = 8;
  std::map<std::string, std::int64_t> vocabulary{{"", 0}};
  std::vector<torch::Tensor> rows;
  std::vector<std::int64_t> classes;
  for (std::size_t label = 0; label < names.size(); ++label)
    for (const auto& name : names[label])
      for (const char* form : {"a photo of a {}", "one grey {} on black", "the {}"}) {
        std::istringstream stream(fmt::format(fmt::runtime(form), name));
        std::vector<std::int64_t> ids;
        for (std::string word; stream >> word;)
          ids.push_back(vocabulary.emplace(word, static_cast<std::int64_t>(vocabulary.size())).first->second);
        ids.insert(ids.begin(), kWords - ids.size(), 0);
        rows.push_back(torch::tensor(ids, torch::kLong));
        classes.push_back(static_cast<std::int64_t>(label));
      }
  return {torch::stack(rows), torch::tensor(classes, torch::kLong), static_cast<std::int64_t>(vocabulary.size())};
}

// A picture and a caption belong together where their classes agree: cross-entropy along rows and columns.
struct Matching {
  static at::Tensor loss(const at::Tensor& similarity, const at::Tensor& labels) {
    const auto same = labels.unsqueeze(0).eq(labels.unsqueeze(1)).to(at::kFloat);
    const auto target = same / same.sum(1, /*keepdim=*/true);
    return 0.5 * (at::cross_entropy_loss(similarity, target) + at::cross_entropy_loss(similarity.t(), target));
  }
  at::Tensor operator()(const pare::DistillationBatch& batch) const {
    return loss(batch.student.output(), batch.labels());
  }
};

pare::Model make(const models::TwoTowerSizes& sizes, const data::Set& set, const Captions& captions,
                 std::uint64_t seed) {
  torch::manual_seed(seed);
  models::TwoTower net(sizes);
  return pare::capture(net, std::tuple{set.inputs[0].narrow(0, 0, 2), captions.ids.narrow(0, 0, 2)},
                       {.dims = {{"pictures", {{0, 0}}}, {"captions", {{1, 0}}}}});
}

// Batches of pictures, a caption drawn for each, and their classes.
pare::TrainingData pairs(const data::Set& set, const Captions& captions, std::int64_t batch) {
  return pare::TrainingData([=](std::int64_t) {
    const auto order = torch::randperm(set.size());
    const auto each = captions.classes.eq(0).sum().item<std::int64_t>();
    return pare::Batches(
        [=](std::size_t position) -> std::optional<pare::Batch> {
          const auto index = order.narrow(0, static_cast<std::int64_t>(position) * batch, batch);
          const auto labels = set.labels.index_select(0, index);
          const auto chosen = labels * each + torch::randint(each, {batch});
          return pare::Batch{set.inputs[0].index_select(0, index), captions.ids.index_select(0, chosen), labels};
        },
        static_cast<std::size_t>(set.size() / batch));
  });
}

struct Retrieval {
  double caption_found = 0;   // percent of pictures whose nearest caption is of their class
  double pictures_found = 0;  // percent of the ten nearest pictures of each caption that are of its class
};

using Forward = std::function<data::Tensors(const data::Tensors&)>;

Retrieval retrieve(const Forward& forward, const data::Set& test, const Captions& captions) {
  const auto similarity = data::outputs(
      [&](const data::Tensors& pictures) {
        return forward({pictures[0], captions.ids});
      },
      test, 500);
  const auto nearest = captions.classes.index_select(0, similarity.argmax(1));
  const auto ten = test.labels.index_select(0, std::get<1>(similarity.topk(10, 0)).flatten()).view({10, -1});
  return {100 * nearest.eq(test.labels).to(torch::kDouble).mean().item<double>(),
          100 * ten.eq(captions.classes.unsqueeze(0)).to(torch::kDouble).mean().item<double>()};
}

void say(const std::string& what, const pare::Model& model, const std::vector<Retrieval>& found) {
  const auto text = [&](double Retrieval::*member) {
    std::vector<double> values;
    for (const auto& one : found) values.push_back(one.*member);
    const auto all = torch::tensor(values, torch::kDouble);
    return fmt::format("{:6.2f} +- {:4.2f}", all.mean().item<double>(),
                       values.size() > 1 ? all.std().item<double>() : 0.0);
  };
  fmt::print("{:<28} {:>9} {:>16} {:>16}\n", what, pare::WeightStorage(model).bytes(), text(&Retrieval::caption_found),
             text(&Retrieval::pictures_found));
  std::fflush(stdout);
}

// Trains a copy of `model` by captions alone, or with a teacher beside them.
pare::Model train(const pare::Model& model, const pare::Model* teacher, const pare::TrainingData& data,
                  const pare::FitOptions& options) {
  if (teacher) {
    // Similarities are scaled as the towers have learned it, and taught as they are.
    const auto loss = Matching{} + pare::KnowledgeDistillation{.temperature = 1.0, .class_dim = 1} +
                      pare::KnowledgeDistillation{.temperature = 1.0, .class_dim = 0};
    return pare::apply(pare::Distiller{.teacher = *teacher, .loss = loss, .training = data, .fit = options}, model)
        .model;
  }
  auto own = model;
  own.detach_weights();
  for (auto& parameter : own.parameters()) parameter.requires_grad_(true);
  pare::fit(
      own, data,
      [&](const pare::Batch& b) {
        return Matching::loss(own.run({b[0], b[1]})[0], b[2]);
      },
      options);
  return own;
}

void compare(const Options& options) {
  auto format = data::InputFormat::image(28, {0.5F, 0.5F, 0.5F}, {0.5F, 0.5F, 0.5F});
  format.channels = 1;
  const auto load = [&](const char* name, std::int64_t limit) {
    return data::load(options.folder + "/" + name, format, {.limit = limit});
  };
  const auto all = load("train-images-idx3-ubyte.gz", options.teacher_samples);
  const auto few = load("train-images-idx3-ubyte.gz", options.samples);
  const auto test = load("t10k-images-idx3-ubyte.gz", 10000);
  const auto captions = make_captions();
  const models::TwoTowerSizes large{.width = 64, .vocabulary = captions.words, .image_channels = 1, .channels = 32},
      small{.width = 32, .vocabulary = captions.words, .heads = 2, .layers = 1, .image_channels = 1, .channels = 8};
  const auto judge = [&](const pare::Model& model) {
    return retrieve([&](const data::Tensors& inputs) { return model.run(inputs); }, test, captions);
  };
  fmt::print("{:<28} {:>9} {:>16} {:>16}\n", "", "bytes", "picture->caption", "caption->picture");
  const auto teacher = train(make(large, all, captions, 100), nullptr, pairs(all, captions, 64),
                             {.epochs = options.teacher_epochs, .rate = 1e-3, .seed = 100});
  say("large towers", teacher, {judge(teacher)});

  std::vector<pare::Batch> pieces;
  for (const auto& batch : pairs(few, captions, 64).epoch(0).first(4)) pieces.push_back({batch[0], batch[1]});
  const pare::ContextOptions context{.calibration = pieces};
  std::vector<pare::Model> taught;
  for (const bool teaching : {false, true}) {
    std::vector<Retrieval> found;
    for (int seed = 0; seed < options.seeds; ++seed) {
      taught.push_back(train(make(small, few, captions, seed), teaching ? &teacher : nullptr, pairs(few, captions, 64),
                             {.epochs = options.epochs, .rate = 3e-3, .seed = static_cast<std::uint64_t>(seed)}));
      found.push_back(judge(taught.back()));
    }
    say(teaching ? "small towers, taught" : "small towers, captions alone", taught.back(), found);
    if (!teaching) taught.clear();
  }
  std::vector<Retrieval> found;
  for (auto& model : taught) {
    model = pare::apply(pare::Quantizer{}, model, context).model;
    const auto compiled = pare::compile(model);
    found.push_back(retrieve([&](const data::Tensors& inputs) { return compiled.run(inputs); }, test, captions));
  }
  say("taught, int8, compiled", taught.back(), found);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Image and text towers, distilled and quantized"};
  Options options;
  app.add_option("folder", options.folder, "Fashion-MNIST")->required();
  app.add_option("--teacher-samples", options.teacher_samples, "Pictures that the large towers are trained on")
      ->check(CLI::Range(64, 60000));
  app.add_option("--samples", options.samples, "Pictures that the small towers are trained on")
      ->check(CLI::Range(64, 60000));
  app.add_option("--teacher-epochs", options.teacher_epochs, "Epochs of the large towers")->check(CLI::Range(1, 10000));
  app.add_option("--epochs", options.epochs, "Epochs of the small towers")->check(CLI::Range(1, 10000));
  app.add_option("--seeds", options.seeds, "Small towers of each kind")->check(CLI::Range(1, 100));
  return program::run("two_towers", app, 1, [&] {
    app.parse(argc, argv);
    compare(options);
    return 0;
  });
}
