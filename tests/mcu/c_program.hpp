#pragma once

#include <fmt/format.h>
#include <torch/torch.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>

#include "pare/core/qparams.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/scratch_folder.hpp"

// Compiling and running what `write_c` wrote as net.c and net.h into a folder.

inline bool run(const std::string& command) { return std::system(command.c_str()) == 0; }

inline bool available(const std::string& tool) { return run("command -v " + tool + " >/dev/null 2>&1"); }

/// The integers of a batch, `[batch, ...]`, as the program takes them.
inline torch::Tensor integers(const torch::Tensor& inputs, const pare::QParams& qparams) {
  return (torch::round(inputs.to(torch::kDouble) / qparams.scale) + static_cast<double>(qparams.zero_point))
      .clamp(static_cast<double>(qparams.quant_min), static_cast<double>(qparams.quant_max))
      .to(torch::kByte)
      .contiguous();
}

inline void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

inline void write_samples(const ScratchFolder& folder, const torch::Tensor& samples) {
  write(folder.file("samples.bin"),
        std::string(static_cast<const char*>(samples.const_data_ptr()), static_cast<std::size_t>(samples.numel())));
}

constexpr const char* kHost = R"(#include <stdio.h>
#include "net.h"
int main(void) {
  static uint8_t in[NET_INPUT_SIZE];
  static int32_t out[NET_OUTPUT_SIZE];
  while (fread(in, 1, sizeof in, stdin) == sizeof in) {
    net_run(in, out);
    fwrite(out, sizeof out[0], NET_OUTPUT_SIZE, stdout);
    if (net_argmax(out) < 0) return 1;
  }
  return 0;
}
)";

/// Compiles net.c as strict C99 and runs it on samples: the scores, `[batch, outputs]`.
inline torch::Tensor host_scores(const ScratchFolder& folder, const torch::Tensor& samples) {
  const auto strict =
      fmt::format("cc -std=c99 -pedantic -Wall -Wextra -Wconversion -Wno-sign-conversion -Werror -O2 -I '{}'",
                  folder.path().string());
  const auto object = folder.file("net.o"), program = folder.file("net");
  write(folder.file("main.c"), kHost);
  write_samples(folder, samples);
  REQUIRE(run(fmt::format("{} -c -o '{}' '{}'", strict, object, folder.file("net.c"))));
  // Nothing of a library: no symbol is left to be found.
  REQUIRE(run(fmt::format("test -z \"$(nm -u '{}' | grep -v _GLOBAL_OFFSET_TABLE_)\"", object)));
  REQUIRE(run(fmt::format("{} -o '{}' '{}' '{}'", strict, program, folder.file("main.c"), object)));
  REQUIRE(run(fmt::format("'{}' < '{}' > '{}'", program, folder.file("samples.bin"), folder.file("scores.bin"))));
  auto bytes = contents(folder.file("scores.bin"));
  return torch::from_blob(bytes.data(), {samples.size(0), static_cast<int64_t>(bytes.size()) / 4 / samples.size(0)},
                          torch::kInt)
      .clone();
}

/// What a program needs and does on a Cortex-M3.
struct CortexRun {
  torch::Tensor scores;           ///< `[batch, outputs]`
  std::int64_t flash = 0;         ///< bytes of net.c: code and constants
  std::int64_t ram = 0;           ///< bytes of its variables
  std::int64_t stack = 0;         ///< bytes of the deepest stack, the test's own frame included
  std::int64_t instructions = 0;  ///< of the longest call: QEMU counts them (`-icount`), it is no model of cycles
};

/// Runs net.c on an emulated Cortex-M3; nothing, said on stderr, without compiler or emulator.
inline std::optional<CortexRun> run_on_cortex(const ScratchFolder& folder, const torch::Tensor& samples,
                                              std::int64_t outputs) {
  if (!available("arm-none-eabi-gcc") || !available("qemu-system-arm")) {
    std::cerr << "skipped: no arm-none-eabi-gcc or no qemu-system-arm (Debian: gcc-arm-none-eabi, qemu-system-arm)\n";
    return std::nullopt;
  }
  const std::string sources = PARE_SOURCE_DIR "/tests/mcu/cortex_m";
  const auto here = folder.path().string(), elf = folder.file("net.elf"), sizes = folder.file("sizes.txt");
  write_samples(folder, samples);
  const auto gcc = fmt::format(
      "arm-none-eabi-gcc -mcpu=cortex-m3 -mthumb -ffreestanding -nostdlib -std=c99 -Wall -Wextra -Werror -O2 -I '{}'",
      here);
  REQUIRE(run(fmt::format("{0} -c -o '{1}/net_m3.o' '{1}/net.c'", gcc, here)));
  REQUIRE(run(fmt::format("cd '{0}' && {1} -T '{2}/link.ld' -o '{3}' '{2}/startup.c' '{2}/samples.S' net_m3.o -lgcc",
                          here, gcc, sources, elf)));
  REQUIRE(run(fmt::format("arm-none-eabi-size '{}/net_m3.o' | tail -1 > '{}'", here, sizes)));
  REQUIRE(
      run(fmt::format("timeout 300 qemu-system-arm -M mps2-an385 -icount shift=0 -nographic -monitor none -serial none "
                      "-semihosting-config enable=on,target=native -kernel '{}' > '{}' 2>&1",
                      elf, folder.file("cortex.txt"))));
  std::vector<std::int64_t> numbers;
  std::istringstream lines(contents(folder.file("cortex.txt")));
  for (std::int64_t number = 0; lines >> number;) numbers.push_back(number);
  const auto count = samples.size(0) * outputs;
  REQUIRE(static_cast<int64_t>(numbers.size()) == count + 2);
  CortexRun result;
  result.instructions = numbers[static_cast<std::size_t>(count)];
  result.stack = numbers[static_cast<std::size_t>(count) + 1];
  result.scores = torch::tensor(numbers).narrow(0, 0, count).view({samples.size(0), outputs}).to(torch::kInt);
  std::int64_t text = 0, data = 0, bss = 0;
  std::istringstream(contents(sizes)) >> text >> data >> bss;
  result.flash = text + data;
  result.ram = data + bss;
  return result;
}

inline void print_cortex(const std::string& name, const CortexRun& run) {
  std::cerr << fmt::format("{} on a Cortex-M3: flash {} bytes, RAM {} bytes and {} of stack, {} instructions a call\n",
                           name, run.flash, run.ram, run.stack, run.instructions);
}
