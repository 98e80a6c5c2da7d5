#include "pare/distill/distillation.hpp"

#include <torch/torch.h>

#include "pare/capture/capture.hpp"
#include "pare/distill/contrastive_distillation.hpp"
#include "pare/distill/distiller.hpp"
#include "pare/distill/drop_layers.hpp"
#include "pare/distill/hard_targets.hpp"
#include "pare/distill/hints.hpp"
#include "pare/distill/relational_distillation.hpp"
#include "pare/graph/text.hpp"
#include "pare/pass/apply.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

namespace nn = torch::nn;

struct BlockImpl : nn::Module {
  explicit BlockImpl(int64_t width)
      : conv1(register_module("conv1", nn::Conv2d(nn::Conv2dOptions(width, width, 3).padding(1).bias(false)))),
        bn1(register_module("bn1", nn::BatchNorm2d(width))),
        conv2(register_module("conv2", nn::Conv2d(nn::Conv2dOptions(width, width, 3).padding(1)))) {}
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = bn1(conv1(x));
    torch::relu_(y);
    return torch::relu(conv2(y) + x);
  }
  nn::Conv2d conv1;
  nn::BatchNorm2d bn1;
  nn::Conv2d conv2;
};
TORCH_MODULE(Block);

// Keeps what its layers gave, to compare with what is seen from outside.
struct NetImpl : nn::Module {
  explicit NetImpl(int64_t width, int64_t blocks = 2)
      : stem(register_module("stem", nn::Conv2d(nn::Conv2dOptions(1, width, 3).padding(1)))),
        layers(register_module("layers", nn::ModuleList())),
        fc(register_module("fc", nn::Linear(width, 4))) {
    for (int64_t i = 0; i < blocks; ++i) layers->push_back(Block(width));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    seen.clear();
    auto y = torch::relu(seen["stem"] = stem(x));
    for (size_t i = 0; i < layers->size(); ++i) {
      y = layers[i]->as<Block>()->forward(y);
      seen["layers." + std::to_string(i)] = y;
    }
    seen["layers"] = y;
    return seen["fc"] = fc(y.mean({2, 3}));
  }
  nn::Conv2d stem;
  nn::ModuleList layers;
  nn::Linear fc;
  std::map<std::string, torch::Tensor> seen;
};
TORCH_MODULE(Net);

Net make_net(int64_t width, uint64_t seed, int64_t blocks = 2) {
  torch::manual_seed(seed);
  return Net(width, blocks);
}

torch::Tensor images(int64_t count = 8) {
  torch::manual_seed(99);
  return torch::randn({count, 1, 6, 6});
}

// Hands out what it was given for one path.
struct Spy {
  std::string path;
  std::shared_ptr<pare::DistillationBatch> last = std::make_shared<pare::DistillationBatch>();
  void request(pare::FeatureRequest& request) const { request.wanted.push_back({path, path}); }
  at::Tensor operator()(const pare::DistillationBatch& batch) const {
    *last = batch;
    return batch.student.feature(path).square().mean();
  }
};

std::vector<torch::Tensor> copies(const nn::Module& module) {
  std::vector<torch::Tensor> all;
  for (const auto& tensor : module.parameters()) all.push_back(tensor.detach().clone());
  for (const auto& tensor : module.buffers()) all.push_back(tensor.detach().clone());
  return all;
}

bool same(const std::vector<torch::Tensor>& a, const std::vector<torch::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!torch::equal(a[i], b[i])) return false;
  return a.size() == b.size();
}

}  // namespace

TEST_CASE("features by module path are what the modules produced", "[distill]") {
  auto student = make_net(4, 1), teacher = make_net(4, 2);
  const auto x = images();
  for (const std::string path : {"stem", "layers.0", "layers.1", "layers", "fc"}) {
    INFO(path);
    const Spy spy{path};
    SECTION("a live module in the user's own forward, " + path) {
      pare::Distillation distillation(student, teacher, {x}, spy);
      student->train();
      const auto watch = distillation.watch();
      const auto output = student->forward(x);
      distillation(x, output).backward();
      CHECK(torch::equal(spy.last->student.feature(path), student->seen.at(path)));
      CHECK(student->stem->weight.grad().defined());
      CHECK(torch::equal(spy.last->teacher.feature(path), teacher->seen.at(path)));
      CHECK_FALSE(spy.last->teacher.feature(path).requires_grad());
      CHECK_FALSE(teacher->fc->weight.grad().defined());
    }
    SECTION("a Model, " + path) {
      auto model = pare::capture(student, x);
      pare::Distillation distillation(model, pare::capture(teacher, x), {x}, spy);
      distillation.step({x}).backward();
      student->eval();
      student->forward(x);
      CHECK(torch::equal(spy.last->student.feature(path), student->seen.at(path)));
      CHECK(student->stem->weight.grad().defined());
    }
  }
}

namespace {

// A training loop as anyone writes it, and the same with three lines more.
double train_plain(Net& net, const torch::Tensor& x, const torch::Tensor& y, int steps) {
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  torch::Tensor loss;
  net->train();
  for (int i = 0; i < steps; ++i) {
    optimizer.zero_grad();
    auto output = net->forward(x);
    loss = nn::functional::cross_entropy(output, y);
    loss.backward();
    optimizer.step();
  }
  return loss.item<double>();
}

double train_distilled(Net& net, Net& teacher, const torch::Tensor& x, const torch::Tensor& y, int steps) {
  pare::Distillation distillation(net, teacher, {x}, pare::Hints{{"layers.1", "layers.1"}});  // one
  const auto watch = distillation.watch();                                                    // two
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  torch::Tensor loss;
  net->train();
  for (int i = 0; i < steps; ++i) {
    optimizer.zero_grad();
    auto output = net->forward(x);
    loss = nn::functional::cross_entropy(output, y);
    loss = loss + distillation(x, output);  // three
    loss.backward();
    optimizer.step();
  }
  return loss.item<double>();
}

}  // namespace

TEST_CASE("a loop that knows nothing of pare distils by three lines more", "[distill]") {
  const auto x = images(16);
  auto teacher = make_net(4, 3);
  teacher->eval();
  const auto y = teacher->forward(x).argmax(1).detach();
  const auto target = teacher->seen.at("layers.1").detach();
  auto plain = make_net(4, 4), distilled = make_net(4, 4);
  const auto before = copies(*teacher);
  train_plain(plain, x, y, 40);
  train_distilled(distilled, teacher, x, y, 40);
  CHECK(same(before, copies(*teacher)));
  CHECK_FALSE(teacher->is_training());
  CHECK(distilled->is_training());
  const auto error = [&](Net& net) {
    net->eval();
    net->forward(x);
    return (net->seen.at("layers.1") - target).square().mean().item<double>();
  };
  CHECK(error(distilled) < 0.5 * error(plain));
}

TEST_CASE("the Distiller trains a Model towards its teacher and moves nothing else", "[distill]") {
  const auto x = images(32);
  auto net = make_net(3, 5), teacher_net = make_net(6, 6);
  const auto model = pare::capture(net, x.narrow(0, 0, 2)), teacher = pare::capture(teacher_net, x.narrow(0, 0, 2));
  const auto before = copies(*net), theirs = copies(*teacher_net);
  const auto labels = teacher(x).argmax(1).detach();
  const auto data = pare::TrainingData::shuffled({x, labels}, 8, 7);
  const pare::Distiller tutor{.teacher = teacher,
                              .loss = pare::KnowledgeDistillation{.temperature = 2.0} +
                                      0.1 * pare::Hints{{"layers.1", "layers.1"}} + 0.1 * pare::HardTargets{},
                              .training = data,
                              .fit = {.epochs = 30, .rate = 1e-2}};
  const auto distilled = pare::apply(tutor, model);
  CHECK(same(before, copies(*net)));
  CHECK(same(theirs, copies(*teacher_net)));
  const auto distance = [&](const pare::Model& m) {
    return (torch::softmax(m(x), 1) - torch::softmax(teacher(x), 1)).abs().mean().item<double>();
  };
  CHECK(distance(distilled.model) < 0.8 * distance(model));
  const auto rows = distilled.report.rows();
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].figures.at("steps") == 120);
  CHECK(rows[0].figures.at("last_loss") < rows[0].figures.at("first_loss"));

  // A Model that shares its tensors with its teacher: the teacher stays where it was.
  auto apart = tutor;
  apart.teacher = model;
  apart.loss = pare::HardTargets{};
  const auto expected = model(x).detach();
  static_cast<void>(pare::apply(apart, model));
  CHECK(torch::equal(model(x), expected));

  // Frozen weights stay.
  auto frozen = tutor;
  frozen.freeze = {"stem.*"};
  const auto kept = pare::apply(frozen, model).model;
  CHECK(torch::equal(kept.weight("stem.weight"), model.weight("stem.weight")));
  CHECK_FALSE(torch::equal(kept.weight("fc.weight"), model.weight("fc.weight")));
}

TEST_CASE("distillation refuses what cannot work and names what could", "[distill]") {
  const auto x = images();
  auto net = make_net(3, 8), teacher = make_net(6, 9);
  auto model = pare::capture(net, x);
  try {
    pare::Distillation(net, teacher, {x}, pare::Hints{{"layer.1", "layers.1"}});
    FAIL("a path that does not exist was accepted");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.distill.102");
    CHECK(std::string(error.what()).find("layers.1") != std::string::npos);
  }
  CHECK(raises("pare.distill.102", [&] { pare::Distillation(model, teacher, {x}, pare::Hints{{"fc", "fcc"}}); }));
  const auto service = [&](const pare::Batch& inputs) { return std::vector<at::Tensor>{teacher->forward(inputs[0])}; };
  CHECK(raises("pare.distill.108", [&] { pare::Distillation(net, service, {x}, pare::Hints{{"fc", "fc"}}); }));
  pare::Distillation by_service(net, service, {x});
  CHECK(by_service.step({x}).item<double>() > 0);
  CHECK(raises("pare.distill.107", [&] { by_service.step({x, x}); }));

  pare::Distillation unseen(net, teacher, {x}, pare::RelationalDistillation{.layers = {"layers.1", "layers.1"}});
  CHECK(raises("pare.distill.105", [&] { unseen(x, net->forward(x)); }));

  torch::manual_seed(1);
  auto other = nn::Sequential(nn::Flatten(), nn::Linear(36, 5));
  auto other_model = pare::capture_forward(
      *other, [&](const std::vector<at::Tensor>& in) { return std::vector<at::Tensor>{other->forward(in[0])}; }, {x});
  CHECK(raises("pare.distill.104", [&] { pare::Distillation(net, other_model, {x}).step({x}); }));

  pare::Distillation first(net, teacher, {x});
  first(x, net->forward(x));
  const auto bad = torch::full({8, 4}, std::numeric_limits<float>::quiet_NaN());
  try {
    first(x, bad);
    FAIL("a loss that is not a number was accepted");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.distill.110");
    CHECK(std::string(error.what()).find("batch 1") != std::string::npos);
  }

  const auto nothing = [](const pare::DistillationBatch&) { return at::Tensor(); };
  CHECK(raises("pare.distill.125", [&] { pare::Distillation(net, teacher, {x}, nothing).step({x}); }));
  const auto rows = [](const pare::DistillationBatch& batch) { return batch.student.output().sum(1); };
  CHECK(raises("pare.distill.125", [&] { pare::Distillation(net, teacher, {x}, rows).step({x}); }));
  CHECK(
      raises("pare.distill.111", [&] { pare::Distillation(net, teacher, {x}, pare::HardTargets{})(x, bad, bad[0]); }));

  CHECK(raises("pare.distill.101", [&] { static_cast<void>(pare::apply(pare::Distiller{}, model)); }));
  CHECK(raises("pare.distill.120",
               [&] { static_cast<void>(pare::apply(pare::Distiller{.teacher = model, .fit = {.rate = -1}}, model)); }));
  CHECK(raises("pare.distill.109", [&] {
    const pare::Distiller tutor{.teacher = model, .training = pare::Batches{x}, .freeze = {"nothing.*"}};
    static_cast<void>(pare::apply(tutor, model));
  }));
  // A training that fails leaves the Model as it was.
  const auto expected = model(x).detach();
  const pare::Distiller exploding{
      .teacher = teacher,
      .training = pare::Batches{x},
      .fit = {.epochs = 50, .optimizer = pare::FitOptions::Optimizer::Sgd, .rate = 1e30, .clip = 0}};
  CHECK(raises("pare.distill.131", [&] { static_cast<void>(pare::apply(exploding, model)); }));
  CHECK(torch::equal(model(x), expected));
}

TEST_CASE("a shallower student keeps the layers that it keeps", "[distill]") {
  const auto x = images();
  auto net = make_net(4, 10, 6);
  net->eval();
  const auto model = pare::capture(net, x);
  const auto dropped = pare::apply(pare::DropLayers{.layers = 3}, model);
  auto y = torch::relu(net->stem(x));
  for (const int i : {1, 3, 5}) y = net->layers[i]->as<Block>()->forward(y);
  CHECK(torch::equal(dropped.model(x), net->fc(y.mean({2, 3}))));
  CHECK_FALSE(dropped.model.weights().contains("layers.0.conv1.weight"));
  CHECK(dropped.model.weights().contains("layers.1.conv1.weight"));
  CHECK(dropped.report.count(pare::Decision::Done) == 3);
  const auto chosen = pare::apply(pare::DropLayers{.stack = "layers", .keep = {4}}, model);
  CHECK(chosen.model.weights().contains("layers.4.conv1.weight"));
  CHECK_FALSE(chosen.model.weights().contains("layers.5.conv1.weight"));
  CHECK(
      raises("pare.distill.140", [&] { static_cast<void>(pare::apply(pare::DropLayers{.stack = "blocks"}, model)); }));
  CHECK(raises("pare.distill.141", [&] { static_cast<void>(pare::apply(pare::DropLayers{.layers = 7}, model)); }));
  CHECK(raises("pare.distill.141", [&] { static_cast<void>(pare::apply(pare::DropLayers{.layers = -1}, model)); }));
  CHECK(raises("pare.distill.141", [&] { static_cast<void>(pare::apply(pare::DropLayers{.keep = {6}}, model)); }));
  // Its layers learn from the teacher's, three from six.
  auto student = dropped.model;
  student.detach_weights();
  pare::Distillation distillation(student, model, {x}, pare::Hints{pare::LayerMap::uniform("layers", "layers")});
  CHECK(distillation.step({x}).item<double>() > 0);
  torch::manual_seed(1);
  auto growing = nn::Sequential(nn::Linear(3, 5), nn::Linear(5, 7), nn::Linear(7, 2));
  const auto grown = pare::capture_forward(
      *growing, [&](const std::vector<at::Tensor>& in) { return std::vector<at::Tensor>{growing->forward(in[0])}; },
      {torch::randn({2, 3})});
  CHECK(raises("pare.distill.142", [&] { static_cast<void>(pare::apply(pare::DropLayers{.layers = 2}, grown)); }));
}

TEST_CASE("a linear layer over a sequence that goes takes its weights along", "[distill]") {
  torch::manual_seed(2);
  nn::Sequential net(nn::Linear(8, 8), nn::ReLU(), nn::Linear(8, 8), nn::ReLU(), nn::Linear(8, 8));
  const auto x = torch::randn({2, 5, 8});
  const auto captured = pare::capture(net, x);
  // The same with the first product under the module around the layers, as checkpoints may have it.
  auto text = pare::print(captured.graph());
  const auto product = text.find("aten::matmul"), end = text.find('\n', product), name = text.find("  #", product);
  REQUIRE(name < end);
  text.replace(name, end - name, "  # around");
  for (const auto& model : {captured, pare::Model(pare::parse_graph(text), captured.weights())}) {
    const auto dropped = pare::apply(pare::DropLayers{.keep = {1, 2}}, model).model;
    CHECK_FALSE(dropped.weights().contains("0.weight"));
    CHECK_FALSE(dropped.weights().contains("0.bias"));
    const auto middle = net->ptr<nn::LinearImpl>(2)->forward(x.relu());
    CHECK(torch::equal(dropped(x), net->ptr<nn::LinearImpl>(4)->forward(middle.relu())));
  }
}
