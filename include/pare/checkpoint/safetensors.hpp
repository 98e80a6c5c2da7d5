#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pare/version.hpp"

namespace torch::nn {
class Module;
}

PARE_NAMESPACE_BEGIN

/// The tensors of a safetensors file (https://github.com/huggingface/safetensors), read whole and checked before
/// anything is handed out, so that a broken or hostile file ends in one error and never in a bad read:
///
/// - `pare.checkpoint.101` the file cannot be opened or read
/// - `pare.checkpoint.102` truncated: no room for the header that it announces, or for the data
/// - `pare.checkpoint.103` the header is larger than the format allows (100 MB)
/// - `pare.checkpoint.104` the header is not the JSON object that the format wants, names a tensor twice, or has a name
/// of
///   more than 1024 bytes
/// - `pare.checkpoint.105` unknown dtype
/// - `pare.checkpoint.106` bad shape: negative, not integers, or its size overflows
/// - `pare.checkpoint.107` bad offsets: outside the data, reversed, or not the size of the shape
/// - `pare.checkpoint.108` tensors overlap, or bytes belong to no tensor
class SafeTensors {
 public:
  /// Reads a file. Its name is the path of every error.
  explicit SafeTensors(const std::string& path);
  /// Reads a file that is already in memory; `name` stands for it in errors.
  SafeTensors(std::string_view bytes, std::string name);

  /// Maps a file instead of reading it: its tensors are the file's pages, fetched when they are first touched. Writing
  /// to a tensor changes this process's copy of a page, never the file. The file must not be cut while they live; one
  /// that another takes the place of (as all of pare's writers do) stays what it was.
  [[nodiscard]] static SafeTensors map(const std::string& path);

  /// Names in alphabetical order.
  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  [[nodiscard]] size_t size() const noexcept { return tensors_.size(); }
  /// The tensor of that name in the file's dtype and shape, on the CPU. It shares memory with the other tensors of the
  /// file and keeps it alive. Throws `pare.checkpoint.109` for a name that the file lacks.
  [[nodiscard]] torch::Tensor at(const std::string& name) const;
  /// Name -> tensor.
  [[nodiscard]] const std::map<std::string, torch::Tensor>& tensors() const noexcept { return tensors_; }
  /// The strings under `__metadata__`; empty where the file has none.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  /// The file's name, as it is used in errors.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  // Copies the next bytes of the file; false where it ends early.
  using Source = std::function<bool(void* to, size_t bytes)>;

  SafeTensors() = default;
  // `whole`: the file as bytes, where it need not be copied.
  void read(uint64_t size, const Source& next, const torch::Tensor& whole = {});

  std::string name_;
  std::map<std::string, torch::Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// How the names of a file become those of a module, and what may be missing.
struct LoadOptions {
  /// Regular expression -> replacement (ECMAScript, `$1`), applied in order to each name of the file.
  std::vector<std::pair<std::string, std::string>> rename = {};
  /// Names of the file -> names of the module; used after `rename` where set. An empty result leaves the tensor out.
  std::function<std::string(const std::string&)> map = {};
  /// Names of the module (whole, as regular expressions) that the file need not have.
  std::vector<std::string> allow_missing = {".*num_batches_tracked"};
  /// Names of the file, after renaming, that the module need not have.
  std::vector<std::string> allow_extra = {};
};

/// Copies the tensors of a file into the parameters and buffers of the same names, converted to the module's dtype and
/// device. Everything is checked first: on an error the module is bit for bit what it was.
///
/// - `pare.checkpoint.110` parameters or buffers of the module are missing in the file (the error names them)
/// - `pare.checkpoint.111` the file has tensors that the module lacks
/// - `pare.checkpoint.112` a shape differs
/// - `pare.checkpoint.113` two tensors of the file end under one name
/// - `pare.checkpoint.114` a pattern of the options is not a regular expression
/// - `pare.checkpoint.115` floating-point values for an integer tensor, or the reverse
/// - `pare.checkpoint.116` numbers that are beyond what the module's type can hold
void load_weights(torch::nn::Module& module, const SafeTensors& file, const LoadOptions& options = {});

/// Every parameter and buffer of a module by name, as `load_weights` finds them; the tensors alias the module's.
[[nodiscard]] std::map<std::string, torch::Tensor> named_weights(const torch::nn::Module& module);

/// Writes tensors (any device, any strides) as a safetensors file. The file appears whole or not at all.
/// Throws `pare.checkpoint.120` for a dtype that the format has no name for, `pare.checkpoint.121` when the file cannot
/// be written.
void save_safetensors(const std::string& path, const std::map<std::string, torch::Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

PARE_NAMESPACE_END
