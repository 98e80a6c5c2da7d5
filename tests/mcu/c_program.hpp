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

/// Where CMSIS-NN lies (the environment's PARE_CMSIS_NN: a copy with Include and Source), or nothing, said on stderr.
inline std::optional<std::string> cmsis_nn() {
  const char* given = std::getenv("PARE_CMSIS_NN");
  if (given != nullptr && std::ifstream(std::string(given) + "/Include/arm_nnsupportfunctions.h")) return given;
  std::cerr << "skipped: no CMSIS-NN: PARE_CMSIS_NN names no folder with Include/arm_nnsupportfunctions.h\n";
  return std::nullopt;
}

/// What net.c takes of it, and how its own sources are compiled.
inline std::string cmsis_nn_flags(const std::string& root) {
  return fmt::format("-std=gnu99 -DPARE_USE_CMSIS_NN -isystem '{}/Include'", root);
}
inline std::string cmsis_nn_kernel(const std::string& root) {
  return fmt::format("'{}/Source/NNSupportFunctions/arm_nn_mat_mult_nt_t_s8_s32.c'", root);
}

/// The scores that a program for the host gives, `[batch, outputs]`.
inline torch::Tensor scores_of(const ScratchFolder& folder, const torch::Tensor& samples) {
  write_samples(folder, samples);
  REQUIRE(run(
      fmt::format("'{}' < '{}' > '{}'", folder.file("net"), folder.file("samples.bin"), folder.file("scores.bin"))));
  auto bytes = contents(folder.file("scores.bin"));
  return torch::from_blob(bytes.data(), {samples.size(0), static_cast<int64_t>(bytes.size()) / 4 / samples.size(0)},
                          torch::kInt)
      .clone();
}

/// The same program on CMSIS-NN's kernels.
inline torch::Tensor cmsis_nn_host_scores(const ScratchFolder& folder, const torch::Tensor& samples,
                                          const std::string& root) {
  write(folder.file("main.c"), kHost);
  REQUIRE(run(fmt::format("cc {} -Wall -Wextra -Werror -O2 -I '{}' -o '{}' '{}' '{}' {}", cmsis_nn_flags(root),
                          folder.path().string(), folder.file("net"), folder.file("main.c"), folder.file("net.c"),
                          cmsis_nn_kernel(root))));
  return scores_of(folder, samples);
}

/// Compiles net.c as strict C99 and runs it on samples: the scores, `[batch, outputs]`.
inline torch::Tensor host_scores(const ScratchFolder& folder, const torch::Tensor& samples) {
  const auto strict =
      fmt::format("cc -std=c99 -pedantic -Wall -Wextra -Wconversion -Wno-sign-conversion -Werror -O2 -I '{}'",
                  folder.path().string());
  const auto object = folder.file("net.o"), program = folder.file("net");
  write(folder.file("main.c"), kHost);
  REQUIRE(run(fmt::format("{} -c -o '{}' '{}'", strict, object, folder.file("net.c"))));
  // Nothing of a library: no symbol is left to be found.
  REQUIRE(run(fmt::format("test -z \"$(nm -u '{}' | grep -v _GLOBAL_OFFSET_TABLE_)\"", object)));
  REQUIRE(run(fmt::format("{} -o '{}' '{}' '{}'", strict, program, folder.file("main.c"), object)));
  return scores_of(folder, samples);
}

/// A processor that QEMU emulates: its board, the compiler's flags, a tick of its SysTick under `-icount shift=0`,
/// where an instruction is a nanosecond.
struct Cortex {
  const char *name, *flags, *board;
  int tick_picoseconds;
};
inline constexpr Cortex kCortexM3{"Cortex-M3", "-mcpu=cortex-m3", "mps2-an385", 40'000};
inline constexpr Cortex kCortexM4{"Cortex-M4", "-mcpu=cortex-m4", "mps2-an386", 40'000};
inline constexpr Cortex kCortexM55{"Cortex-M55", "-mcpu=cortex-m55 -mfloat-abi=hard", "mps3-an547", 31'250};

/// What a program needs and does on it.
struct CortexRun {
  torch::Tensor scores;           ///< `[batch, outputs]`
  std::int64_t flash = 0;         ///< bytes of net.c: code and constants
  std::int64_t ram = 0;           ///< bytes of its variables
  std::int64_t stack = 0;         ///< bytes of the deepest stack, the test's own frame included
  std::int64_t instructions = 0;  ///< of the longest call: QEMU counts them (`-icount`), it is no model of cycles
};

/// Runs net.c on an emulated processor; nothing, said on stderr, without compiler or emulator.
/// @param root of CMSIS-NN, or empty for our own kernels
inline std::optional<CortexRun> run_on_cortex(const ScratchFolder& folder, const torch::Tensor& samples,
                                              std::int64_t outputs, const Cortex& core = kCortexM3,
                                              const std::string& root = {}) {
  if (!available("arm-none-eabi-gcc") || !available("qemu-system-arm")) {
    std::cerr << "skipped: no arm-none-eabi-gcc or no qemu-system-arm (Debian: gcc-arm-none-eabi, qemu-system-arm)\n";
    return std::nullopt;
  }
  const std::string sources = PARE_SOURCE_DIR "/tests/mcu/cortex_m";
  const auto here = folder.path().string(), elf = folder.file("net.elf"), sizes = folder.file("sizes.txt");
  write_samples(folder, samples);
  const auto gcc = fmt::format("arm-none-eabi-gcc {} -mthumb -ffreestanding -nostdlib -O2 -I '{}' -isystem '{}/libc'",
                               core.flags, here, sources);
  const std::string strict = " -std=c99 -Wall -Wextra -Werror";
  REQUIRE(run(fmt::format("{0}{1} -c -o '{2}/net_m.o' '{2}/net.c'", gcc,
                          root.empty() ? strict : " -Wall -Wextra -Werror " + cmsis_nn_flags(root), here)));
  std::string objects = "net_m.o";
  if (!root.empty()) {
    REQUIRE(run(fmt::format("{} {} -c -o '{}/kernel.o' {}", gcc, cmsis_nn_flags(root), here, cmsis_nn_kernel(root))));
    objects += " kernel.o";
  }
  REQUIRE(
      run(fmt::format("cd '{0}' && {1}{2} -DTICK_PICOSECONDS={3} -T '{4}/link.ld' -o '{5}' '{4}/startup.c' "
                      "'{4}/samples.S' {6} -lgcc",
                      here, gcc, strict, core.tick_picoseconds, sources, elf, objects)));
  REQUIRE(run(fmt::format("cd '{}' && arm-none-eabi-size -t {} | tail -1 > '{}'", here, objects, sizes)));
  REQUIRE(
      run(fmt::format("timeout 300 qemu-system-arm -M {} -icount shift=0 -nographic -monitor none -serial none "
                      "-semihosting-config enable=on,target=native -kernel '{}' > '{}' 2>&1",
                      core.board, elf, folder.file("cortex.txt"))));
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

inline void print_cortex(const std::string& name, const CortexRun& run, const Cortex& core = kCortexM3,
                         bool cmsis_nn = false) {
  std::cerr << fmt::format("{} on a {}{}: flash {} bytes, RAM {} bytes and {} of stack, {} instructions a call\n", name,
                           core.name, cmsis_nn ? " with CMSIS-NN" : "", run.flash, run.ram, run.stack,
                           run.instructions);
}
