"""A sweep of sensitivity in plain PyTorch, beside pare's: each layer's weights at 4 bits while all others have 8.

Both round to nearest, symmetric, by the largest weight of each output channel, with batch norms folded and activations
in float; the damage is the Kullback-Leibler divergence from the float model's answers. PyTorch evaluates the whole model
for each layer, as one writes it; its Fisher information is the usual diagonal one, squared gradients of a batch.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from . import networks, samples
from .samples import Feed

NETWORKS = ("resnet20", "resnet56", "efficientnet_lite0", "minilm_sst2")
BATCH = 16
DRAWS = 4
TIMEOUT_SECONDS = 1800


@dataclass(frozen=True)
class Sweep:
    """What a sweep found and took."""

    damage: dict[str, float]
    seconds: float


def fold_batch_norms(module: nn.Module, example: list[Tensor]) -> None:
    """Each batch norm goes into the convolution whose output it reads."""
    made: dict[int, nn.Module] = {}
    kept, pairs, hooks = [], [], []

    def remember(layer: nn.Module, _: tuple, result: Tensor) -> None:
        kept.append(result)  # alive, so that its id is its own
        made[id(result)] = layer

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(remember))
        elif isinstance(layer, nn.BatchNorm2d):
            hooks.append(layer.register_forward_pre_hook(lambda m, args: pairs.append((made[id(args[0])], m))))
    with torch.no_grad():
        module(*example)
    for hook in hooks:
        hook.remove()
    owners = {child: (parent, name) for parent in module.modules() for name, child in parent.named_children()}
    for convolution, norm in pairs:
        fused = fuse_conv_bn_eval(convolution, norm)
        convolution.weight, convolution.bias = fused.weight, fused.bias
        parent, name = owners[norm]
        setattr(parent, name, nn.Identity())


def rounded(weight: Tensor, bits: int) -> Tensor:
    most = 2 ** (bits - 1) - 1
    scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-30) / most
    scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return (weight.detach() / scale).round().clamp(-most, most) * scale


def batches(feeds: list[Feed]) -> list[list[Tensor]]:
    """Pictures sixteen at a time, sentences one by one."""
    if "mask" in feeds[0]:
        return [networks.tensors(feed) for feed in feeds]
    whole = np.concatenate([feed["image"] for feed in feeds])
    return [[torch.from_numpy(whole[i : i + BATCH])] for i in range(0, len(whole), BATCH)]


def divergence(expected: list[Tensor], actual: list[Tensor]) -> float:
    total, count = 0.0, 0
    for x, y in zip(expected, actual):
        p, q = torch.log_softmax(x.double(), -1), torch.log_softmax(y.double(), -1)
        total += float((p.exp() * (p - q)).sum())
        count += len(x)
    return total / count


class Subject:
    """A network with 8-bit weights, whose layers can have 4 bits for a while."""

    def __init__(self, name: str, data: Path) -> None:
        network = networks.NETWORKS[name]
        self.module = network.build()
        networks.load_weights(self.module, data / network.weights)
        self.module.eval()
        self.batches = batches(samples.load(network.source, network.image, data).calibration)
        fold_batch_norms(self.module, self.batches[0])
        self.answers = self.outputs()
        layers = {n: m for n, m in self.module.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
        self.changed = {n: rounded(m.weight, 4) for n, m in layers.items()}
        for layer in layers.values():
            layer.weight = nn.Parameter(rounded(layer.weight, 8))
        self.layers = layers

    @torch.no_grad()
    def outputs(self) -> list[Tensor]:
        return [self.module(*batch) for batch in self.batches]

    @contextmanager
    def at_4_bits(self, name: str) -> Iterator[None]:
        kept = self.layers[name].weight.data
        self.layers[name].weight.data = self.changed[name]
        yield
        self.layers[name].weight.data = kept

    def exact(self) -> Sweep:
        start = time.perf_counter()
        base = divergence(self.answers, self.outputs())
        damage = {}
        for name in self.layers:
            with self.at_4_bits(name):
                damage[name] = divergence(self.answers, self.outputs()) - base
        return Sweep(damage, time.perf_counter() - start)

    def fisher(self) -> Sweep:
        start = time.perf_counter()
        torch.manual_seed(0)
        weights = [layer.weight for layer in self.layers.values()]
        sums = [torch.zeros_like(weight) for weight in weights]
        count = 0
        for batch in self.batches:
            likelihood = torch.log_softmax(self.module(*batch), -1)
            count += len(likelihood)
            for draw in range(DRAWS):
                drawn = torch.multinomial(likelihood.detach().exp(), 1)
                gradients = torch.autograd.grad(
                    likelihood.gather(-1, drawn).sum(), weights, retain_graph=draw + 1 < DRAWS
                )
                for total, gradient in zip(sums, gradients):
                    total += gradient.square()
        damage = {
            name: float((total * (self.changed[name] - weight.detach()).square()).sum()) / (2 * count * DRAWS)
            for (name, total, weight) in zip(self.layers, sums, weights)
        }
        return Sweep(damage, time.perf_counter() - start)

    def evaluation_seconds(self) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            self.outputs()
            times.append(time.perf_counter() - start)
        return sorted(times)[1]


def spearman(a: list[float], b: list[float]) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def run_pare(benchmark: Path, data: Path, names: list[str]) -> dict[str, dict]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sensitivity.json"
        subprocess.run(
            [str(benchmark), "--weights-only", "--json", str(path), *names], check=True, stdout=subprocess.DEVNULL,
            timeout=TIMEOUT_SECONDS, env={"PARE_DATA": str(data), "OMP_WAIT_POLICY": "passive"},
        )  # fmt: skip
        return {entry["model"]: entry for entry in json.loads(path.read_text())}


def compare(benchmark: Path, data: Path, names: list[str]) -> str:
    """A table of both, as text."""
    names = names or list(NETWORKS)
    torch.set_num_threads(2)
    ours = run_pare(benchmark, data, names)
    lines = [
        "| network | layers | exact sweep, s: PyTorch / pare | in evaluations: PyTorch / pare | largest difference of damages "
        "| Fisher, s: PyTorch / pare | Spearman to exact: PyTorch / pare |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        subject = Subject(name, data)
        once = subject.evaluation_seconds()
        exact, fisher = subject.exact(), subject.fisher()
        own = {layer["name"]: layer for layer in ours[name]["layers"]}
        common = [layer for layer in exact.damage if layer in own]
        apart = max(abs(exact.damage[layer] - own[layer]["exact"]) for layer in common)
        scale = max(abs(exact.damage[layer]) for layer in common)
        theirs = spearman([exact.damage[n] for n in exact.damage], [fisher.damage[n] for n in exact.damage])
        lines.append(
            f"| {name} | {len(exact.damage)} ({len(common)} in both) | {exact.seconds:.1f} / {ours[name]['exact_s']:.1f} "
            f"| {exact.seconds / once:.1f} / {ours[name]['exact_evaluations']:.1f} | {100 * apart / scale:.2g} % "
            f"| {fisher.seconds:.1f} / {ours[name]['fisher_s']:.1f} | {theirs:.3f} / {ours[name]['spearman']:.3f} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)
