#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace data {

/// BERT's uncased tokenizer: lower case, accents stripped, split at spaces and punctuation, then the longest pieces of
/// the vocabulary from the left ("##" inside a word). Text is UTF-8; broken bytes are dropped.
class WordPiece {
 public:
  /// Reads `vocab.txt`, one piece a line, its number being its id. Throws `pare.data.107` where the file is missing or
  /// lacks [PAD], [UNK], [CLS] or [SEP].
  explicit WordPiece(const std::string& vocabulary);

  /// [CLS], the pieces, [SEP]; cut to `longest` ids.
  [[nodiscard]] std::vector<int64_t> encode(std::string_view text, int64_t longest) const;
  /// Id of [PAD].
  [[nodiscard]] int64_t padding() const { return padding_; }

 private:
  void append_pieces(const std::string& word, std::vector<int64_t>& to) const;

  std::unordered_map<std::string, int64_t> ids_;
  int64_t padding_ = 0, unknown_ = 0, begin_ = 0, end_ = 0;
};

}  // namespace data
