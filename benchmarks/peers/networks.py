"""The networks of the comparison: how each is built, where its weights and samples are, and its ONNX export."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from . import samples, transformers, vision
from .samples import Feed, ImageFormat, Samples, Source

IMAGENET_FORMAT = {"mean": (123.675, 116.28, 103.53), "divisor": (58.395, 57.12, 57.375)}
RANDOM_CALIBRATION = 16
SEQUENCE = 128


@dataclass(frozen=True)
class Network:
    """One row of the comparison; `name` is also the name that `examples/zoo` knows it by.

    Without `weights` the network has random ones and only its speed is compared.
    """

    name: str
    build: Callable[[], nn.Module]
    image: ImageFormat | None = None
    weights: str | None = None
    source: Source | None = None

    @property
    def is_transformer(self) -> bool:
        return self.image is None

    @property
    def inputs(self) -> list[str]:
        return ["ids", "mask"] if self.is_transformer else ["image"]


NETWORKS = {
    network.name: network
    for network in (
        Network("resnet20", lambda: vision.CifarResNet(20), ImageFormat(32, **IMAGENET_FORMAT),
                "cifar10/resnet20.safetensors", samples.CIFAR),
        Network("resnet56", lambda: vision.CifarResNet(56), ImageFormat(32, **IMAGENET_FORMAT),
                "cifar10/resnet56.safetensors", samples.CIFAR),
        Network("resnet8", vision.ResNet8, ImageFormat(32),
                "mlperf_tiny_resnet8/resnet8_cifar10.safetensors", samples.CIFAR),
        Network("efficientnet_lite0", vision.EfficientNetLite0, ImageFormat(224, (127.0,) * 3, (128.0,) * 3),
                "efficientnet_lite0/efficientnet_lite0_fp16.safetensors", samples.IMAGENET),
        Network("squeezenet", vision.SqueezeNet, ImageFormat(227, (123.0, 117.0, 104.0)),
                "squeezenet_v1.1/squeezenet_v1.1_fp16.safetensors", samples.IMAGENET),
        Network("minilm_sst2", transformers.SentenceClassifier, None,
                "minilm_l6_sst2/minilm_l6_sst2_fp16.safetensors", samples.SST2),
        Network("mobilenetv2", vision.MobileNetV2, ImageFormat(224, **IMAGENET_FORMAT)),
        Network("resnet50", vision.ResNet50, ImageFormat(224, **IMAGENET_FORMAT)),
        Network("bert6x384", transformers.Bert),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A network with its weights, as module, as files, and with its samples (`labels` empty for random weights)."""

    network: Network
    module: nn.Module
    onnx: Path
    safetensors: Path
    samples: Samples

    @property
    def has_labels(self) -> bool:
        return len(self.samples.labels) > 0


def prepare(network: Network, data: Path | None, work: Path) -> Prepared:
    """Builds the network, loads or draws its weights and samples, and writes what the contestants read into `work`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a neighbour on the second core would stall two spinning threads
    module = network.build()
    if network.weights and network.source and data:
        weights = data / network.weights
        load_weights(module, weights)
        found = samples.load(network.source, network.image, data)
    else:
        draw_weights(module, network)
        weights = work / f"{network.name}.safetensors"
        state = {name: t.contiguous() for name, t in module.state_dict().items() if "num_batches" not in name}
        save_file(state, weights)
        calibration = samples.one_by_one(random_feed(network, RANDOM_CALIBRATION))
        found = Samples(random_feed(network, 1), np.empty(0, dtype=np.int64), calibration)
    module.eval()
    path = work / f"{network.name}.onnx"
    export_onnx(module, network, path)
    return Prepared(network, module, path, weights, found)


def load_weights(module: nn.Module, path: Path) -> None:
    """Fills the module from a safetensors file, fp16 widened to fp32; names must agree on both sides."""
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{path.name}: missing {missing[:3]}, unexpected {unexpected[:3]}")


def draw_weights(module: nn.Module, network: Network) -> None:
    """Random weights that keep activations in a sane range; batch norms take their statistics from two batches."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear) and network.is_transformer:
            nn.init.normal_(layer.weight, std=transformers.WIDTH**-0.5)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.05)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    module.train()
    with torch.no_grad():
        for _ in range(2):
            module(*tensors(random_feed(network, 8)))


def random_feed(network: Network, batch: int) -> Feed:
    """Noise over all pixel values, or sentences of random words without padding."""
    generator = np.random.default_rng(batch)
    if network.image is None:
        ids = generator.integers(1, transformers.VOCABULARY, (batch, SEQUENCE), dtype=np.int64)
        return {"ids": ids, "mask": np.ones_like(ids)}
    size = network.image.size
    return {"image": network.image.normalise(generator.integers(0, 256, (batch, 3, size, size)))}


def tensors(feed: Feed) -> list[torch.Tensor]:
    return [torch.from_numpy(values) for values in feed.values()]


def export_onnx(module: nn.Module, network: Network, path: Path) -> None:
    """ONNX with a dynamic batch, and for sentences a dynamic length."""
    axes = {name: {0: "batch", 1: "tokens"} if network.is_transformer else {0: "batch"} for name in network.inputs}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(tensors(random_feed(network, 2))),
            str(path),
            input_names=network.inputs,
            output_names=["output"],
            dynamic_axes={**axes, "output": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
