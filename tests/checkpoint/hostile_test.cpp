#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "pare/checkpoint/safetensors.hpp"
#include "pare/core/error.hpp"
#include "tests/fuzz/safetensors_fuzz.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/scratch_folder.hpp"

namespace {

const std::filesystem::path kCorpus = std::filesystem::path(PARE_SOURCE_DIR) / "tests/fuzz/corpus/safetensors";

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

bool survives(const std::string& bytes) {
  return fuzz_safetensors(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

// The id that reading a corpus file ends in; empty where it is read.
std::string outcome(const std::string& file) {
  try {
    const pare::SafeTensors safe((kCorpus / file).string());
    return "";
  } catch (const pare::Error& error) {
    CHECK(error.path() == (kCorpus / file).string());
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return error.id();
  }
}

}  // namespace

TEST_CASE("each kind of broken file has its error") {
  const std::map<std::string, std::string> expected = {
      {"two_floats", ""},
      {"all_dtypes", ""},
      {"misaligned", ""},
      {"scalar_and_empty", ""},
      {"metadata", ""},
      {"no_tensors", ""},
      {"empty", "pare.checkpoint.102"},
      {"seven_bytes", "pare.checkpoint.102"},
      {"zeros", "pare.checkpoint.104"},
      {"huge_header", "pare.checkpoint.103"},
      {"long_header", "pare.checkpoint.102"},
      {"bad_json", "pare.checkpoint.104"},
      {"array", "pare.checkpoint.104"},
      {"string", "pare.checkpoint.104"},
      {"bad_utf8", "pare.checkpoint.104"},
      {"deep", "pare.checkpoint.104"},
      {"deep_unclosed", "pare.checkpoint.104"},
      {"duplicate", "pare.checkpoint.104"},
      {"duplicate_field", "pare.checkpoint.104"},
      {"unknown_dtype", "pare.checkpoint.105"},
      {"newline_name", "pare.checkpoint.105"},
      {"negative_shape", "pare.checkpoint.106"},
      {"float_shape", "pare.checkpoint.106"},
      {"overflow", "pare.checkpoint.106"},
      {"overflow_hidden_by_zero", "pare.checkpoint.106"},
      {"overflow_wraps", "pare.checkpoint.106"},
      {"u64_shape", "pare.checkpoint.106"},
      {"many_axes", "pare.checkpoint.106"},
      {"outside", "pare.checkpoint.107"},
      {"reversed", "pare.checkpoint.107"},
      {"three_offsets", "pare.checkpoint.107"},
      {"size_mismatch", "pare.checkpoint.107"},
      {"overlap", "pare.checkpoint.108"},
      {"gap", "pare.checkpoint.108"},
      {"trailing", "pare.checkpoint.108"},
      {"no_fields", "pare.checkpoint.104"},
      {"wrong_kinds", "pare.checkpoint.104"},
      {"metadata_number", "pare.checkpoint.104"},
      {"huge_number", "pare.checkpoint.104"},
      {"long_name", "pare.checkpoint.104"},
  };
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kCorpus)) {
    const auto name = entry.path().filename().string();
    INFO(name);
    REQUIRE(expected.count(name) == 1);
    CHECK(outcome(name) == expected.at(name));
    CHECK(survives(bytes_of(entry.path())));
    ++files;
  }
  CHECK(files == expected.size());
}

TEST_CASE("a name inside a field is not the entry's own again") {
  const ScratchFolder folder;
  const std::string header = R"({"a":{"a":{"a":{"a":0}}}})";
  {
    std::ofstream stream(folder.file("nested"), std::ios::binary);
    const auto size = static_cast<std::uint64_t>(header.size());
    stream.write(reinterpret_cast<const char*>(&size), sizeof size) << header;
  }
  try {
    const pare::SafeTensors safe(folder.file("nested"));
    FAIL("read");
  } catch (const pare::Error& error) {
    CHECK(error.id() == "pare.checkpoint.104");
    CHECK(std::string(error.what()).find("nested deeper") != std::string::npos);
  }
}

TEST_CASE("a file that is not there, or is a folder, is one error") {
  CHECK(outcome("nowhere") == "pare.checkpoint.101");
  CHECK(outcome("") == "pare.checkpoint.101");
}

TEST_CASE("mutated files end in tensors or in one error") {
  std::mt19937 random(1);
  const auto draw = [&](size_t below) { return std::uniform_int_distribution<size_t>(0, below - 1)(random); };
  const std::string digits = "0123456789-[]{}\",:.eE";
  for (const char* seed : {"two_floats", "all_dtypes", "misaligned", "metadata"}) {
    const std::string original = bytes_of(kCorpus / seed);
    for (int i = 0; i < 1500; ++i) {
      std::string bytes = original;
      for (size_t edits = 1 + draw(4); edits > 0; --edits) {
        const size_t at = draw(bytes.size());
        switch (draw(5)) {
          case 0:
            bytes[at] = static_cast<char>(draw(256));
            break;
          case 1:
            bytes[at] = digits[draw(digits.size())];
            break;
          case 2:
            bytes.erase(at, 1 + draw(8));
            break;
          case 3:
            bytes.insert(at, bytes.substr(draw(bytes.size()), 1 + draw(16)));
            break;
          default:
            bytes.resize(at + 1);
            break;
        }
        if (bytes.empty()) break;
      }
      if (!survives(bytes)) {
        INFO(seed << " mutation " << i);
        FAIL();
      }
    }
  }
}
