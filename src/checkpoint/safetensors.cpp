#include "pare/checkpoint/safetensors.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/mapped_file.hpp"
#include "checkpoint/safetensors_format.hpp"
#include "core/replace_file.hpp"
#include "pare/core/error.hpp"

PARE_NAMESPACE_BEGIN
namespace {

using checkpoint::printable;
using nlohmann::json;

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxName = 1024;

/// Where one tensor lies in the data that follows the header.
struct Entry {
  torch::ScalarType dtype = torch::kFloat;
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
};

// nlohmann keeps the last of two equal keys and any depth of nesting; the format allows neither.
json parse_header(const std::string& text, const std::string& file) {
  std::set<std::string> seen;
  std::set<std::string> fields;
  const json::parser_callback_t check = [&](int depth, json::parse_event_t event, json& parsed) {
    const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if (opens && depth > 2) fail("pare.checkpoint.104", file, "the header is nested deeper than the format allows");
    if (opens && depth == 1) fields.clear();
    // What lies inside a field is none of the entry's own.
    if (event != json::parse_event_t::key || depth > 2) return true;
    const auto& key = parsed.get_ref<const std::string&>();
    if (!(depth == 1 ? seen : fields).insert(key).second) {
      fail("pare.checkpoint.104", file, "the header has '{}' twice", printable(key));
    }
    return true;
  };
  try {
    json header = json::parse(text, check);
    if (text.front() != '{' || !header.is_object()) {
      fail("pare.checkpoint.104", file, "the header is not a JSON object; is this a safetensors file?");
    }
    return header;
  } catch (const json::parse_error& error) {
    fail("pare.checkpoint.104", file, "the header is not valid JSON at its byte {}; is this a safetensors file?",
         error.byte);
  } catch (const json::exception& error) {
    fail("pare.checkpoint.104", file, "the header is not valid JSON: {}", printable(error.what()));
  }
}

// Non-negative integers that an int64 holds, or nothing.
bool read_integers(const json& value, std::vector<int64_t>& to) {
  if (!value.is_array()) return false;
  for (const auto& item : value) {
    if (!item.is_number_unsigned()) return false;
    const auto number = item.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
    to.push_back(static_cast<int64_t>(number));
  }
  return true;
}

// Bytes of a shape; -1 where they overflow. Zero sizes do not hide an overflow of the others: strides would have it
// too.
int64_t byte_size(const std::vector<int64_t>& shape, int64_t item) {
  int64_t product = item;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, size, &product)) {
      return -1;
    }
  }
  return empty ? 0 : product;
}

Entry read_entry(const std::string& name, const json& value, uint64_t data_size, const std::string& file) {
  const auto shown = printable(name);
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") || !value.contains("data_offsets")) {
    fail("pare.checkpoint.104", file, "'{}' lacks dtype, shape or data_offsets", shown);
  }
  if (!value["dtype"].is_string()) fail("pare.checkpoint.104", file, "the dtype of '{}' is not a string", shown);
  Entry entry;
  const auto& dtype = value["dtype"].get_ref<const std::string&>();
  const auto known = checkpoint::dtype_from_name(dtype);
  if (!known) fail("pare.checkpoint.105", file, "'{}' has the unknown dtype '{}'", shown, printable(dtype));
  entry.dtype = *known;
  if (!read_integers(value["shape"], entry.shape)) {
    fail("pare.checkpoint.106", file, "the shape of '{}' is not a list of sizes", shown);
  }
  const int64_t bytes = byte_size(entry.shape, static_cast<int64_t>(c10::elementSize(entry.dtype)));
  if (bytes < 0 || entry.shape.size() > checkpoint::kMaxAxes) {
    fail("pare.checkpoint.106", file, "the shape of '{}' is too large", shown);
  }
  std::vector<int64_t> offsets;
  if (!read_integers(value["data_offsets"], offsets) || offsets.size() != 2) {
    fail("pare.checkpoint.107", file, "data_offsets of '{}' is not a pair of offsets", shown);
  }
  entry.begin = offsets[0];
  entry.end = offsets[1];
  if (entry.begin > entry.end || static_cast<uint64_t>(entry.end) > data_size) {
    fail("pare.checkpoint.107", file, "'{}' lies at bytes {} to {} of {}", shown, entry.begin, entry.end, data_size);
  }
  if (entry.end - entry.begin != bytes) {
    fail("pare.checkpoint.107", file, "'{}' has {} bytes where its shape needs {}", shown, entry.end - entry.begin,
         bytes);
  }
  return entry;
}

// The format wants the data covered exactly once.
void check_cover(const std::map<std::string, Entry>& entries, uint64_t data_size, const std::string& file) {
  std::vector<std::pair<const std::string*, const Entry*>> order;
  for (const auto& [name, entry] : entries) order.emplace_back(&name, &entry);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  int64_t position = 0;
  for (const auto& [name, entry] : order) {
    if (entry->begin < position) {
      fail("pare.checkpoint.108", file, "'{}' overlaps the tensor before it", printable(*name));
    }
    if (entry->begin > position) {
      fail("pare.checkpoint.108", file, "{} bytes before '{}' belong to no tensor", entry->begin - position,
           printable(*name));
    }
    position = entry->end;
  }
  if (static_cast<uint64_t>(position) != data_size) {
    fail("pare.checkpoint.108", file, "the last {} bytes belong to no tensor",
         data_size - static_cast<uint64_t>(position));
  }
}

torch::Tensor tensor_of(const torch::Tensor& data, const Entry& entry) {
  if (entry.begin == entry.end) return torch::empty(entry.shape, entry.dtype);
  auto bytes = data.slice(0, entry.begin, entry.end);
  if (entry.dtype == torch::kBool) return bytes.ne(0).view(entry.shape);  // a bool of another value is undefined
  const auto item = static_cast<int64_t>(c10::elementSize(entry.dtype));
  if (reinterpret_cast<std::uintptr_t>(bytes.const_data_ptr()) % static_cast<std::uintptr_t>(item) != 0)
    bytes = bytes.clone();
  return bytes.view(entry.dtype).view(entry.shape);
}

// Hands out bytes from the front to the back.
std::function<bool(void*, size_t)> copying_from(std::string_view bytes) {
  return [rest = bytes](void* to, size_t count) mutable {
    if (count > rest.size()) return false;
    std::memcpy(to, rest.data(), count);
    rest.remove_prefix(count);
    return true;
  };
}

}  // namespace

SafeTensors::SafeTensors(const std::string& path) : name_(path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    fail("pare.checkpoint.101", printable(path), "no such file");
  }
  const uint64_t size = std::filesystem::file_size(path, error);
  std::ifstream stream(path, std::ios::binary);
  if (error || !stream) fail("pare.checkpoint.101", printable(path), "the file cannot be opened");
  read(size, [&stream](void* to, size_t bytes) {
    stream.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
    return static_cast<size_t>(stream.gcount()) == bytes;
  });
}

SafeTensors::SafeTensors(std::string_view bytes, std::string name) : name_(std::move(name)) {
  read(bytes.size(), copying_from(bytes));
}

SafeTensors SafeTensors::map(const std::string& path) {
  SafeTensors result;
  result.name_ = path;
  const auto whole = checkpoint::map_file(path);
  if (!whole.defined()) fail("pare.checkpoint.101", printable(path), "the file cannot be opened");
  const auto* begin = static_cast<const char*>(whole.const_data_ptr());
  result.read(whole.nbytes(), copying_from({begin, whole.nbytes()}), whole);
  return result;
}

void SafeTensors::read(uint64_t size, const Source& next, const torch::Tensor& whole) {
  const std::string file = printable(name_);
  std::array<unsigned char, 8> prefix{};
  if (size < prefix.size() || !next(prefix.data(), prefix.size())) {
    fail("pare.checkpoint.102", file, "{} bytes are too few for a safetensors file", size);
  }
  uint64_t header_size = 0;
  for (size_t i = prefix.size(); i-- > 0;) header_size = header_size << 8U | prefix[i];
  if (header_size > kMaxHeader) {
    fail("pare.checkpoint.103", file, "a header of {} bytes is announced, more than the {} allowed", header_size,
         kMaxHeader);
  }
  if (header_size > size - prefix.size()) {
    fail("pare.checkpoint.102", file, "truncated: a header of {} bytes is announced in a file of {}", header_size,
         size);
  }
  if (header_size == 0) fail("pare.checkpoint.104", file, "the header is empty; is this a safetensors file?");
  std::string text(header_size, '\0');
  if (!next(text.data(), text.size())) fail("pare.checkpoint.102", file, "the header cannot be read to its end");

  const uint64_t data_size = size - prefix.size() - header_size;
  const json header = parse_header(text, file);
  std::map<std::string, Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name.size() > kMaxName) {
      fail("pare.checkpoint.104", file, "the name '{}' has {} bytes, more than {}", printable(name), name.size(),
           kMaxName);
    }
    if (name == "__metadata__") {
      if (!value.is_object()) fail("pare.checkpoint.104", file, "__metadata__ is not an object");
      for (const auto& [key, text_value] : value.items()) {
        if (!text_value.is_string()) fail("pare.checkpoint.104", file, "__metadata__ holds more than strings");
        metadata_[key] = text_value.get<std::string>();
      }
    } else {
      entries[name] = read_entry(name, value, data_size, file);
    }
  }
  check_cover(entries, data_size, file);

  torch::NoGradGuard no_grad;
  auto data = whole.defined() ? whole.slice(0, static_cast<int64_t>(prefix.size() + header_size))
                              : torch::empty({static_cast<int64_t>(data_size)}, torch::kUInt8);
  if (!whole.defined() && data_size > 0 && !next(data.mutable_data_ptr(), data_size)) {
    fail("pare.checkpoint.102", file, "the data cannot be read to its end");
  }
  for (const auto& [name, entry] : entries) tensors_[name] = tensor_of(data, entry);
}

std::vector<std::string> SafeTensors::names() const {
  std::vector<std::string> result;
  for (const auto& [name, tensor] : tensors_) result.push_back(name);
  return result;
}

torch::Tensor SafeTensors::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("pare.checkpoint.109", printable(name_), "has no tensor '{}'", printable(name));
  return found->second;
}

void save_safetensors(const std::string& path, const std::map<std::string, torch::Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  const std::string file = printable(path);
  // Widest items first, so that each tensor is aligned.
  std::vector<std::pair<std::string, torch::Tensor>> order;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined() || !checkpoint::name_of_dtype(tensor.scalar_type()) || tensor.layout() != torch::kStrided ||
        tensor.is_meta() || name == "__metadata__" || name.size() > kMaxName) {
      fail("pare.checkpoint.120", file,
           "'{}' cannot be written: its name, its dtype or where it lies has no place in the format", printable(name));
    }
    order.emplace_back(name, tensor.detach().to(torch::kCPU).contiguous().resolve_conj().resolve_neg());
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });

  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const auto& [name, tensor] : order) {
    header[name] = {{"dtype", *checkpoint::name_of_dtype(tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, offset + tensor.nbytes()}}};
    offset += tensor.nbytes();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    fail("pare.checkpoint.120", file, "a name or a line of metadata is not UTF-8");
  }
  // The data begins at a multiple of 64 bytes: what is mapped is aligned for vector instructions.
  text.resize((8 + text.size() + 63) / 64 * 64 - 8, ' ');

  const bool written = replace_file(path, [&](std::ostream& stream) {
    for (size_t i = 0; i < 8; ++i) stream.put(static_cast<char>(text.size() >> (8 * i) & 0xFFU));
    stream.write(text.data(), static_cast<std::streamsize>(text.size()));
    for (const auto& [name, tensor] : order) {
      stream.write(static_cast<const char*>(tensor.const_data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
    }
  });
  if (!written) fail("pare.checkpoint.121", file, "the file cannot be written");
}

PARE_NAMESPACE_END
