// Which layers a map pairs, from names and from features.
#include "pare/distill/layer_map.hpp"

#include <torch/torch.h>

#include "tests/support/catch.hpp"
#include "tests/support/raises.hpp"

namespace {

using MappedPairs = std::vector<std::string>;  // "student < teacher"
using MappedPaths = std::vector<std::string>;

MappedPaths stack_paths(const std::string& stack, int layers) {
  MappedPaths paths{stack};
  for (int i = 0; i < layers; ++i) paths.push_back(fmt::format("{}.{}", stack, i));
  return paths;
}

pare::FeatureRequest stacks_of(int student, int teacher) {
  return {.student_paths = stack_paths("s", student), .teacher_paths = stack_paths("t", teacher)};
}

MappedPairs shown(const std::vector<pare::LayerPair>& pairs) {
  MappedPairs texts;
  for (const auto& pair : pairs) texts.push_back(pair.student + " < " + pair.teacher);
  return texts;
}

MappedPairs pairs_of(pare::LayerMap map, int student, int teacher) {
  auto request = stacks_of(student, teacher);
  map.request(request);
  CHECK(shown(request.wanted) == shown(map.pairs()));
  return shown(map.pairs());
}

}  // namespace

TEST_CASE("a stack's layers are its numbered children, in the order of their numbers", "[distill]") {
  const MappedPaths paths{"enc.layer.10.fc",
                          "enc.layer.2",
                          "enc.layer.2.fc",
                          "enc.layer",
                          "enc.layer.norm",
                          "enc.layer.0",
                          "enc.layers.1",
                          "other.layer.5",
                          "enc.layer.7b",
                          "3",
                          "12.weight",
                          "enc.layer.norm.4",
                          "enc",
                          ""};
  CHECK(pare::layers_of_stack(paths, "enc.layer") == MappedPaths{"enc.layer.0", "enc.layer.2", "enc.layer.10"});
  CHECK(pare::layers_of_stack(paths, "enc.layer.norm") == MappedPaths{"enc.layer.norm.4"});
  CHECK(pare::layers_of_stack(paths, "") == MappedPaths{"3", "12"});
  CHECK(pare::layers_of_stack(paths, "enc").empty());
  CHECK(pare::layers_of_stack({}, "enc.layer").empty());
}

TEST_CASE("given pairs are asked for as they are, and no map asks for nothing", "[distill]") {
  const pare::LayerMap none;
  CHECK(none.empty());
  CHECK(pairs_of(none, 2, 2).empty());
  const pare::LayerMap one{"s.1", "t.0"};
  CHECK_FALSE(one.empty());
  CHECK(pairs_of(one, 2, 2) == MappedPairs{"s.1 < t.0"});
  const pare::LayerMap several{{"s.1", "t.0"}, {"head", "t.2"}, {"s.1", "t.1"}};
  CHECK(pairs_of(several, 2, 3) == MappedPairs{"s.1 < t.0", "head < t.2", "s.1 < t.1"});
  CHECK_FALSE(pare::LayerMap::uniform("s", "t").empty());
  CHECK(pare::LayerMap::uniform("s", "t").pairs().empty());
}

TEST_CASE("uniform takes the last of each share, last takes the last ones", "[distill]") {
  const auto uniform = pare::LayerMap::uniform("s", "t"), last = pare::LayerMap::last("s", "t");
  CHECK(pairs_of(uniform, 3, 6) == MappedPairs{"s.0 < t.1", "s.1 < t.3", "s.2 < t.5"});
  CHECK(pairs_of(last, 3, 6) == MappedPairs{"s.0 < t.3", "s.1 < t.4", "s.2 < t.5"});
  CHECK(pairs_of(uniform, 1, 12) == MappedPairs{"s.0 < t.11"});
  CHECK(pairs_of(last, 1, 12) == MappedPairs{"s.0 < t.11"});
  for (const auto& map : {uniform, last}) CHECK(pairs_of(map, 2, 2) == MappedPairs{"s.0 < t.0", "s.1 < t.1"});
  // Shares that are not whole: in order, each its own, up to the last.
  auto request = stacks_of(3, 7);
  auto uneven = uniform;
  uneven.request(request);
  REQUIRE(uneven.pairs().size() == 3);
  CHECK(uneven.pairs()[0].teacher < uneven.pairs()[1].teacher);
  CHECK(uneven.pairs()[1].teacher < uneven.pairs()[2].teacher);
  CHECK(uneven.pairs()[2].teacher == "t.6");
}

TEST_CASE("a stack that is not there, or too short, is refused by its name", "[distill]") {
  const auto refused = [](pare::LayerMap map, int student, int teacher) -> std::string {
    auto request = stacks_of(student, teacher);
    try {
      map.request(request);
    } catch (const pare::Error& error) {
      CHECK(error.id() == "pare.distill.103");
      CHECK(request.wanted.empty());
      return error.path();
    }
    return "nothing";
  };
  for (const auto make : {&pare::LayerMap::uniform, &pare::LayerMap::last, &pare::LayerMap::search}) {
    CHECK(refused(make("s", "t"), 3, 2) == "t");
    CHECK(refused(make("s", "t"), 0, 2) == "s");
    CHECK(refused(make("s", "t"), 2, 0) == "t");
    CHECK(refused(make("students", "t"), 2, 2) == "students");
    CHECK(refused(make("s", "t"), 2, 2) == "nothing");
  }
}

TEST_CASE("a search asks for all layers and keeps their order, the last with the last", "[distill]") {
  torch::manual_seed(0);
  auto search = pare::LayerMap::search("s", "t");
  auto request = stacks_of(2, 3);
  search.request(request);
  CHECK(search.pairs().empty());
  CHECK(shown(request.wanted) == MappedPairs{"s.0 < ", "s.1 < ", " < t.0", " < t.1", " < t.2"});
  // The student's layers are the teacher's second and first: the last may not learn from the first.
  pare::DistillationBatch batch;
  for (int i = 0; i < 3; ++i) batch.teacher.features[fmt::format("t.{}", i)] = torch::randn({40, 7});
  batch.student.features = {{"s.0", batch.teacher.features["t.1"]}, {"s.1", batch.teacher.features["t.0"]}};
  search.choose(batch);
  CHECK(shown(search.pairs()) == MappedPairs{"s.0 < t.1", "s.1 < t.2"});
  // A feature that nobody saw is the error of the batch.
  batch.student.features.erase("s.1");
  CHECK(raises("pare.distill.105", [&] { search.choose(batch); }));
}

TEST_CASE("maps that do not search have nothing to choose", "[distill]") {
  pare::LayerMap given{"s.0", "t.1"};
  given.choose({});
  CHECK(shown(given.pairs()) == MappedPairs{"s.0 < t.1"});
}
