"""Finding the channel groups of ResNet-50 and pruning half of each by L2: Torch-Pruning and pare, in turns."""

from __future__ import annotations

import re
import statistics
import subprocess
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import vision

TIMEOUT_SECONDS = 300
FIGURES = re.compile(r"(\d+) groups in ([\d.]+) ms; found and half of each pruned by L2 in ([\d.]+) ms")


@dataclass
class Times:
    """Milliseconds of each round: to find the groups alone, and with the pruning."""

    groups: list[float] = field(default_factory=list)
    pruned: list[float] = field(default_factory=list)


def torch_pruning(times: Times) -> None:
    """The dependency graph alone; then what a user calls: a pruner over all layers, and its one step."""
    import torch_pruning as tp

    example = torch.randn(1, 3, 224, 224)
    network = vision.ResNet50().eval()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tp.DependencyGraph().build_dependency(network, example)
        times.groups.append(1e3 * (time.perf_counter() - start))
        network = vision.ResNet50().eval()
        start = time.perf_counter()
        pruner = tp.pruner.BasePruner(
            network, example, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
            ignored_layers=[network.fc],
        )  # fmt: skip
        pruner.step()
    times.pruned.append(1e3 * (time.perf_counter() - start))
    assert network.layer1[0].conv2.out_channels == 32


def pare(executable: Path, times: Times) -> None:
    """The driver's own clock around the same two things."""
    done = subprocess.run(
        [str(executable), "--model", "resnet50", "--groups"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
        check=True,
    )  # fmt: skip
    found = FIGURES.search(done.stdout)
    if found is None:
        raise RuntimeError("zoo --groups says no times")
    times.groups.append(float(found.group(2)))
    times.pruned.append(float(found.group(3)))


def compare(executable: Path, rounds: int) -> str:
    """Medians over the rounds, as text."""
    contestants = {"Torch-Pruning": Times(), "pare": Times()}
    for _ in range(max(rounds, 1)):
        torch_pruning(contestants["Torch-Pruning"])
        pare(executable, contestants["pare"])
    lines = []
    for name, times in contestants.items():
        lines.append(
            f"{name}: groups {statistics.median(times.groups):.0f} ms, "
            f"groups and pruning {statistics.median(times.pruned):.0f} ms"
        )
    ratio = statistics.median(contestants["Torch-Pruning"].pruned) / statistics.median(contestants["pare"].pruned)
    return "\n".join([*lines, f"pare is {ratio:.1f} times as fast"])
