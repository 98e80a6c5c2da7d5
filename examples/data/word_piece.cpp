#include "examples/data/word_piece.hpp"

#include <algorithm>
#include <sstream>

#include "examples/data/readers.hpp"
#include "examples/data/unaccented.hpp"
#include "pare/core/error.hpp"

namespace data {
namespace {

constexpr size_t kLongestWord = 100;  // code points; longer words are unknown, as in BERT

// The code points of UTF-8; bytes that are none are skipped.
std::u32string decode(std::string_view text) {
  std::u32string result;
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80 ? 1 : lead >> 5U == 6 ? 2 : lead >> 4U == 14 ? 3 : lead >> 3U == 30 ? 4 : 0;
    if (length == 0 || i + length > text.size()) {
      ++i;
      continue;
    }
    char32_t point = length == 1 ? lead : lead & (0x7FU >> length);
    bool whole = true;
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      whole = whole && next >> 6U == 2;
      point = point << 6U | (next & 0x3FU);
    }
    if (whole) result.push_back(point);
    i += whole ? length : 1;
  }
  return result;
}

void encode_point(char32_t point, std::string& to) {
  if (point < 0x80) {
    to += static_cast<char>(point);
  } else if (point < 0x800) {
    to += static_cast<char>(0xC0U | point >> 6U);
    to += static_cast<char>(0x80U | (point & 0x3FU));
  } else if (point < 0x10000) {
    to += static_cast<char>(0xE0U | point >> 12U);
    to += static_cast<char>(0x80U | (point >> 6U & 0x3FU));
    to += static_cast<char>(0x80U | (point & 0x3FU));
  } else {
    to += static_cast<char>(0xF0U | point >> 18U);
    to += static_cast<char>(0x80U | (point >> 12U & 0x3FU));
    to += static_cast<char>(0x80U | (point >> 6U & 0x3FU));
    to += static_cast<char>(0x80U | (point & 0x3FU));
  }
}

bool between(char32_t point, char32_t first, char32_t last) { return first <= point && point <= last; }

bool is_space(char32_t p) {
  return p == ' ' || p == '\t' || p == '\n' || p == '\r' || p == 0xA0 || p == 0x1680 || between(p, 0x2000, 0x200A) ||
         p == 0x2028 || p == 0x2029 || p == 0x202F || p == 0x205F || p == 0x3000;
}

// Control and format characters, and combining accents, which the decomposed text would carry.
bool is_dropped(char32_t p) {
  return p < 0x20 || between(p, 0x7F, 0x9F) || p == 0xAD || between(p, 0x200B, 0x200F) || between(p, 0x202A, 0x202E) ||
         between(p, 0x2060, 0x206F) || p == 0xFEFF || p == 0xFFFD || between(p, 0x300, 0x36F) ||
         between(p, 0xFE00, 0xFE0F);
}

bool is_punctuation(char32_t p) {
  if (p < 0x80) return between(p, 33, 47) || between(p, 58, 64) || between(p, 91, 96) || between(p, 123, 126);
  return p == 0xA1 || p == 0xA7 || p == 0xAB || p == 0xB6 || p == 0xB7 || p == 0xBB || p == 0xBF ||
         between(p, 0x2010, 0x2027) || (between(p, 0x2030, 0x205E) && p != 0x2044 && p != 0x2052) ||
         between(p, 0x3001, 0x3003) || between(p, 0x3008, 0x3011) || between(p, 0x3014, 0x301F);
}

bool is_ideograph(char32_t p) {
  return between(p, 0x4E00, 0x9FFF) || between(p, 0x3400, 0x4DBF) || between(p, 0xF900, 0xFAFF) ||
         between(p, 0x20000, 0x2CEAF) || between(p, 0x2F800, 0x2FA1F);
}

// Lower case without accents, for the Latin, Greek and Cyrillic letters.
char32_t plain(char32_t p) {
  if (between(p, 'A', 'Z')) return p + 32;
  if (p < 0x80) return p;
  const auto found = std::lower_bound(std::begin(kUnaccented), std::end(kUnaccented), p,
                                      [](const auto& entry, char32_t point) { return entry.letter < point; });
  return found != std::end(kUnaccented) && found->letter == p ? found->plain : p;
}

}  // namespace

WordPiece::WordPiece(const std::string& vocabulary) {
  if (!std::filesystem::is_regular_file(vocabulary)) pare::fail("pare.data.107", vocabulary, "no such vocabulary");
  std::istringstream stream(read_file(vocabulary));
  std::string piece;
  for (int64_t id = 0; std::getline(stream, piece); ++id) {
    if (!piece.empty() && piece.back() == '\r') piece.pop_back();
    ids_.emplace(piece, id);
  }
  const auto special = [&](const char* name) {
    const auto found = ids_.find(name);
    if (found == ids_.end()) pare::fail("pare.data.107", vocabulary, "the vocabulary lacks {}", name);
    return found->second;
  };
  padding_ = special("[PAD]");
  unknown_ = special("[UNK]");
  begin_ = special("[CLS]");
  end_ = special("[SEP]");
}

std::vector<int64_t> WordPiece::encode(std::string_view text, int64_t longest) const {
  std::vector<int64_t> ids = {begin_};
  std::string word;
  size_t letters = 0;
  const auto finish = [&]() {
    if (letters > kLongestWord) {
      ids.push_back(unknown_);
    } else if (letters > 0) {
      append_pieces(word, ids);
    }
    word.clear();
    letters = 0;
  };
  for (const char32_t point : decode(text)) {
    if (is_space(point)) {
      finish();
    } else if (is_dropped(point)) {
      continue;
    } else {
      const char32_t letter = plain(point);
      const bool alone = is_punctuation(letter) || is_ideograph(letter);
      if (alone) finish();
      encode_point(letter, word);
      ++letters;
      if (alone) finish();
    }
  }
  finish();
  ids.resize(std::min<size_t>(ids.size(), static_cast<size_t>(std::max<int64_t>(longest, 2)) - 1));
  ids.push_back(end_);
  return ids;
}

void WordPiece::append_pieces(const std::string& word, std::vector<int64_t>& to) const {
  const size_t before = to.size();
  for (size_t start = 0; start < word.size();) {
    size_t end = word.size();
    auto found = ids_.end();
    for (; end > start; --end) {
      found = ids_.find((start > 0 ? "##" : "") + word.substr(start, end - start));
      if (found != ids_.end()) break;
    }
    if (found == ids_.end()) {  // one piece that is unknown makes the word unknown
      to.resize(before);
      to.push_back(unknown_);
      return;
    }
    to.push_back(found->second);
    start = end;
  }
}

}  // namespace data
