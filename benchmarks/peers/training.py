"""A training step of ResNet-20 at batch 128, float and quantization-aware: PyTorch's eager mode and pare, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import vision

BATCH = 128
THREADS = 2
STEPS = 5
TIMEOUT_SECONDS = 600


class _Block(nn.Module):
    """A residual block as PyTorch's eager mode wants it: modules to fuse, and the sum as a module."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = block.conv1, block.bn1, nn.ReLU()
        self.conv2, self.bn2 = block.conv2, block.bn2
        self.sum = torch.ao.nn.quantized.FloatFunctional()
        self.grows = block.conv1.in_channels != block.conv1.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.grows:
            pad = (self.conv1.out_channels - self.conv1.in_channels) // 2
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
        return self.sum.add_relu(y, x)


class _Network(nn.Module):
    """ResNet-20 rewritten for PyTorch's eager mode."""

    def __init__(self) -> None:
        super().__init__()
        plain = vision.CifarResNet(20)
        self.quant = torch.ao.quantization.QuantStub()
        self.conv1, self.bn1, self.relu1 = plain.conv1, plain.bn1, nn.ReLU()
        self.blocks = nn.Sequential(*(_Block(b) for stage in (plain.layer1, plain.layer2, plain.layer3) for b in stage))
        self.linear = plain.linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu1(self.bn1(self.conv1(self.quant(x)))))
        return self.linear(torch.flatten(functional.avg_pool2d(x, 8), 1))


def _prepared() -> nn.Module:
    """Batch norms folded while they train, 8-bit weights a channel, 8-bit activations: PyTorch's own defaults."""
    network = _Network().train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = [["conv1", "bn1", "relu1"]]
        for b in range(len(network.blocks)):
            pairs += [[f"blocks.{b}.conv1", f"blocks.{b}.bn1", f"blocks.{b}.relu1"],
                      [f"blocks.{b}.conv2", f"blocks.{b}.bn2"]]  # fmt: skip
        torch.ao.quantization.fuse_modules_qat(network, pairs, inplace=True)
        network.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
        torch.ao.quantization.prepare_qat(network, inplace=True)
    return network


def _steps(network: nn.Module) -> list[float]:
    """Milliseconds of each step: forward, backward, SGD."""
    optimizer = torch.optim.SGD(network.parameters(), 1e-4)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    times = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        times.append(1e3 * (time.perf_counter() - start))
    return times[1:]


def _pare(benchmark: Path) -> dict[str, list[float]]:
    """Milliseconds of steps, from pare's own benchmark; several of each in turns, since the first pays for memory."""
    options = ["--benchmark_enable_random_interleaving=true", f"--benchmark_repetitions={STEPS}"]
    done = subprocess.run(
        [str(benchmark), "--benchmark_format=json", "--benchmark_min_time=0.5", *options], capture_output=True,
        text=True, timeout=TIMEOUT_SECONDS, check=True,
    )  # fmt: skip
    found: dict[str, list[float]] = {}
    for entry in json.loads(done.stdout)["benchmarks"]:
        if entry["run_type"] == "iteration":
            found.setdefault(entry["name"].removesuffix("/real_time"), []).append(entry["real_time"])
    return found


def compare(benchmark: Path, rounds: int) -> str:
    """Medians over the rounds and what each step costs in float steps of its own framework, as text."""
    torch.set_num_threads(THREADS)
    found: dict[str, list[float]] = {}
    for _ in range(max(rounds, 1)):
        for name, network in (("PyTorch, float", vision.CifarResNet(20).train()), ("PyTorch, eager QAT", _prepared())):
            found.setdefault(name, []).extend(_steps(network))
        for name, milliseconds in _pare(benchmark).items():
            found.setdefault(f"pare, {name}", []).extend(milliseconds)
    medians = {name: statistics.median(times) for name, times in found.items()}
    lines = []
    for name, milliseconds in medians.items():
        base = medians["PyTorch, float" if name.startswith("PyTorch") else "pare, float"]
        lines.append(f"{name:<34} {milliseconds:6.0f} ms a step, {milliseconds / base:.2f} of float")
    return "\n".join(lines)
