#include "examples/data/dataset.hpp"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "examples/data/word_piece.hpp"
#include "pare/core/error.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pare_data.hpp"

namespace {

namespace fs = std::filesystem;

// A folder that is gone at the end of the scope.
struct ScratchFolder {
  ScratchFolder() : path(fs::temp_directory_path() / ("pare_data_test_" + std::to_string(::getpid()))) {
    fs::create_directories(path);
  }
  ~ScratchFolder() { fs::remove_all(path); }
  std::string write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << bytes;
    return (path / name).string();
  }
  fs::path path;
};

data::InputFormat raw(int64_t size, int64_t channels = 3) {
  return {.kind = data::InputFormat::Kind::kImage, .channels = channels, .size = size};
}

const data::InputFormat kTokens = {.kind = data::InputFormat::Kind::kTokens, .tokens = 127};

std::string error_of(const std::string& path, const data::InputFormat& format, const data::LoadOptions& options = {}) {
  try {
    data::load(path, format, options);
    return "";
  } catch (const pare::Error& error) {
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return error.id();
  }
}

const char* const kVocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\nworld\n!\n##ing\ncafe\nth\n##e\n,\n";

}  // namespace

TEST_CASE("CIFAR records become normalised pictures and labels") {
  const ScratchFolder folder;
  std::string bytes;
  for (const char label : {3, 7, 1}) bytes.append(1, label).append(3072, static_cast<char>(10 * label));
  const auto path = folder.write("a.bin", bytes);

  auto format = raw(32);
  format.mean = {10, 20, 30};
  format.divisor = {1, 2, 4};
  const auto set = data::load(path, format, {.offset = 1, .limit = 5});
  CHECK(torch::equal(set.labels, torch::tensor({7, 1}, torch::kLong)));
  REQUIRE(set.inputs.at(0).sizes() == torch::IntArrayRef({2, 3, 32, 32}));
  CHECK(set.inputs[0][0][0].eq(60).all().item<bool>());
  CHECK(set.inputs[0][0][1].eq(25).all().item<bool>());
  CHECK(set.inputs[0][0][2].eq(10).all().item<bool>());
  CHECK(set.batches(1).size() == 2);
  CHECK(set.batches(4).size() == 1);

  CHECK(error_of(folder.write("short.bin", bytes.substr(1)), format) == "pare.data.104");
  CHECK(error_of(folder.write("empty.bin", ""), format) == "pare.data.104");
  CHECK(error_of(path, raw(224)) == "pare.data.105");
  CHECK(error_of(path, raw(32, 1)) == "pare.data.103");
  CHECK(error_of(path, format, {.offset = 3}) == "pare.data.106");
  CHECK(error_of(path, format, {.limit = 0}) == "pare.data.106");
}

TEST_CASE("broken or foreign files end in one error") {
  const ScratchFolder folder;
  CHECK(error_of((folder.path / "nowhere.bin").string(), raw(32)) == "pare.data.102");
  CHECK(error_of(folder.write("a.txt", "x"), raw(32)) == "pare.data.103");
  CHECK(error_of(folder.path.string(), raw(32)) == "pare.data.103");
  CHECK(error_of(folder.write("a.pack", "xx"), raw(32)) == "pare.data.104");
  CHECK(error_of(folder.write("b.pack", std::string("\x02\0\0\0\x01\xff\xff\xff\xff", 9)), raw(32)) == "pare.data.104");
  CHECK(error_of(folder.write("c.pack", std::string("\x01\0\0\0\x01\x02\0\0\0xx", 11)), raw(32)) == "pare.data.105");
  CHECK(error_of(folder.write("a.csv", "1,2,3\n"), raw(8, 1)) == "pare.data.104");
  CHECK(error_of(folder.write("b.csv", "# only a comment\n"), raw(8, 1)) == "pare.data.106");
  CHECK(error_of(folder.write("a.tsv", "good\t1\n"), raw(32)) == "pare.data.103");
  CHECK(error_of((folder.path / "a.csv").string(), kTokens) == "pare.data.103");
  CHECK(error_of((folder.path / "a.csv").string(), {}) == "pare.data.103");
  CHECK(error_of((folder.path / "a.tsv").string(), kTokens, {.vocabulary = "nowhere"}) == "pare.data.107");
  CHECK(error_of((folder.path / "a.tsv").string(), kTokens, {.vocabulary = folder.write("v", "a\n")}) ==
        "pare.data.107");
  CHECK(error_of(folder.write("x-images-idx3-ubyte.gz", "\x1f\x8b garbage garbage garbage"), raw(28, 1)) ==
        "pare.data.104");
  folder.write("classes/labels.csv", "file,class_index\n0.jpg,zero\n");
  CHECK(error_of((folder.path / "classes").string(), raw(32)) == "pare.data.104");
  folder.write("classes/labels.csv", "file,class_index\n0.jpg,0\n");
  CHECK(error_of((folder.path / "classes").string(), raw(32)) == "pare.data.102");
  folder.write("classes/images/0.jpg", "not a picture");
  CHECK(error_of((folder.path / "classes").string(), raw(32)) == "pare.data.105");
}

TEST_CASE("sentences become padded ids and a mask") {
  const ScratchFolder folder;
  folder.write("vocab.txt", kVocabulary);
  const auto path = folder.write("a.tsv", "Hello, WORLDing!\t1\ncafé\t0\n");
  const auto set = data::load(path, kTokens);
  CHECK(torch::equal(set.labels, torch::tensor({1, 0}, torch::kLong)));
  CHECK(torch::equal(set.inputs.at(0), torch::tensor({{2, 4, 11, 5, 7, 6, 3}, {2, 8, 3, 0, 0, 0, 0}}, torch::kLong)));
  CHECK(torch::equal(set.inputs.at(1), set.inputs.at(0).ne(0).to(torch::kLong)));
  CHECK(data::load(path, kTokens, {.tokens = 5}).inputs.at(0).sizes() == torch::IntArrayRef({2, 5}));
  CHECK(data::load(path, kTokens, {.tokens = 5}).inputs.at(0)[0][4].item<int64_t>() == 3);
  CHECK(error_of(folder.write("b.tsv", "no label\n"), kTokens) == "pare.data.104");
}

TEST_CASE("WordPiece splits as BERT's tokenizer does") {
  const ScratchFolder folder;
  const data::WordPiece tokenizer(folder.write("vocab.txt", kVocabulary));
  using Ids = std::vector<int64_t>;
  CHECK(tokenizer.encode("", 9) == Ids{2, 3});
  CHECK(tokenizer.encode("the thing", 9) == Ids{2, 9, 10, 9, 7, 3});
  CHECK(tokenizer.encode("unknown hello", 9) == Ids{2, 1, 4, 3});
  CHECK(tokenizer.encode("CAFÉ cafe\u0301 caf\u00e9", 9) == Ids{2, 8, 8, 8, 3});
  CHECK(tokenizer.encode("hello\u200b\u00a0world\x01\xff", 9) == Ids{2, 4, 5, 3});
  CHECK(tokenizer.encode(std::string(101, 'a'), 9) == Ids{2, 1, 3});
  CHECK(tokenizer.encode("hello hello hello hello", 4) == Ids{2, 4, 4, 3});
  if (const auto real = pare_data("minilm_l6_sst2/vocab.txt")) {
    const data::WordPiece bert(*real);
    CHECK(bert.encode("Hello, world!", 127) == Ids{101, 7592, 1010, 2088, 999, 102});
    CHECK(bert.encode("unaffable", 127) == Ids{101, 14477, 20961, 3468, 102});
  }
}

TEST_CASE("the real data sets load") {
  if (const auto path = pare_data("digits/digits_test.csv")) {
    const auto set = data::load(*path, raw(8, 1));
    CHECK(set.inputs.at(0).sizes() == torch::IntArrayRef({500, 1, 8, 8}));
    CHECK(set.inputs.at(0).max().item<float>() == 255.0F);
    CHECK(set.labels.max().item<int64_t>() == 9);
  }
  if (const auto path = pare_data("fashion_mnist/train-images-idx3-ubyte.gz")) {
    auto format = data::InputFormat::image(28, {0, 0, 0}, {1, 1, 1});
    format.channels = 1;
    const auto set = data::load(*path, format);
    CHECK(set.size() == 60000);
    CHECK(set.inputs.at(0).mean().item<double>() == Approx(0.2860).margin(0.0002));  // the published values
    CHECK(set.inputs.at(0).std().item<double>() == Approx(0.3530).margin(0.0002));
  }
  if (const auto path = pare_data("mnist/t5k-first-images-idx3-ubyte.gz")) {
    const auto set = data::load(*path, raw(28, 1));
    CHECK(set.size() == 5000);
    CHECK(set.labels[0].item<int64_t>() == 7);
  }
  if (const auto path = pare_data("dsb2018_nuclei/test")) {
    const auto set = data::load(*path, raw(256, 1));
    CHECK(set.inputs.at(0).sizes() == torch::IntArrayRef({60, 1, 256, 256}));
    CHECK(set.labels.sizes() == torch::IntArrayRef({60, 256, 256}));
    CHECK(set.labels.max().item<int64_t>() == 1);
  }
}
