"""A quantized ONNX file of a convolutional network, computed by PyTorch in float64 or float32: what its roundings to
integers make of the same real numbers, told more or less exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

Values = dict[str, Tensor]


class NotCovered(Exception):
    """An operator that convolutional networks do not have."""


def attributes(node: onnx.NodeProto) -> dict:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A scale or zero point, shaped to broadcast along an axis."""
    if vector.numel() == 1:
        return vector.reshape(())
    return vector.reshape([-1 if d == axis % rank else 1 for d in range(rank)])


def bounds(dtype: torch.dtype) -> tuple[int, int]:
    return (-128, 127) if dtype == torch.int8 else (0, 255)


def spread(x: Tensor, pads: list[int] | None, value: float = 0.0) -> Tensor:
    if not pads or not any(pads):
        return x
    top, left, bottom, right = pads
    return functional.pad(x, (left, right, top, bottom), value=value)


def convolution(x: Tensor, weight: Tensor, settings: dict, border: float = 0.0) -> Tensor:
    return functional.conv2d(
        spread(x, settings.get("pads"), border), weight, None, settings.get("strides", [1, 1]), 0,
        settings.get("dilations", [1, 1]), settings.get("group", 1),
    )  # fmt: skip


class Network:
    def __init__(self, path: Path) -> None:
        self.graph = onnx.load(str(path)).graph
        self.constants = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def run(self, feed: dict[str, np.ndarray], dtype: torch.dtype) -> Values:
        """All values, those that are no integers in `dtype`."""
        values = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in self.constants.items()}
        for name, array in feed.items():
            tensor = torch.from_numpy(array)
            values[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        for node in self.graph.node:
            if node.op_type not in RULES:
                raise NotCovered(node.op_type)
            inputs = [values[name] if name else None for name in node.input]
            results = RULES[node.op_type](inputs, attributes(node))
            values.update(zip(node.output, results if isinstance(results, list) else [results]))
        return values

    def output(self, values: Values) -> Tensor:
        return values[self.graph.output[0].name].double()

    def rounding_behind(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The QuantizeLinear that a layer's result goes through, behind nothing but clamps."""
        while True:
            users = self.users.get(node.output[0], [])
            if len(users) != 1:
                return None
            node = users[0]
            if node.op_type == "QuantizeLinear":
                return node
            if node.op_type not in ("Clip", "Relu"):
                return None

    def integers_behind(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes a value."""
        maker = self.makers.get(name)
        return maker if maker is not None and maker.op_type == "DequantizeLinear" else None


def quantize(x: list, settings: dict) -> Tensor:
    low, high = bounds(x[2].dtype)
    axis, rank = settings.get("axis", 1), x[0].dim()
    scaled = torch.round(x[0] / along(x[1], axis, rank)) + along(x[2].to(x[0].dtype), axis, rank)
    return scaled.clamp(low, high).to(x[2].dtype)


def dequantize(x: list, settings: dict) -> Tensor:
    axis, rank = settings.get("axis", 1), x[0].dim()
    integers = x[0].to(x[1].dtype)
    if len(x) > 2 and x[2] is not None:
        integers = integers - along(x[2].to(x[1].dtype), axis, rank)
    return integers * along(x[1], axis, rank)


def conv(x: list, settings: dict) -> Tensor:
    result = convolution(x[0], x[1], settings)
    return result if len(x) < 3 else result + x[2].reshape(1, -1, 1, 1)


def gemm(x: list, settings: dict) -> Tensor:
    result = x[0] @ (x[1].t() if settings.get("transB") else x[1])
    return result if len(x) < 3 else result + x[2]


def clip(x: list, settings: dict) -> Tensor:
    low, high = (x[i] if len(x) > i else None for i in (1, 2))
    return x[0].clamp(low if low is None else low.item(), high if high is None else high.item())


def max_pool(x: list, settings: dict) -> Tensor:
    wide = spread(x[0].double(), settings.get("pads"), -1e30)
    return functional.max_pool2d(wide, settings["kernel_shape"], settings.get("strides", 1)).to(x[0].dtype)


def pad(x: list, settings: dict) -> Tensor:
    amounts, rank = x[1].tolist(), x[0].dim()
    sides = [amounts[d + side * rank] for d in reversed(range(rank)) for side in (0, 1)]
    return functional.pad(x[0], sides, value=x[2].item() if len(x) > 2 and x[2] is not None else 0.0)


def reduce_mean(x: list, settings: dict) -> Tensor:
    axes = settings.get("axes") or x[1].tolist()
    return x[0].mean(tuple(axes), keepdim=bool(settings.get("keepdims", 1)))


def reshape(x: list, settings: dict) -> Tensor:
    return x[0].reshape([x[0].shape[i] if size == 0 else size for i, size in enumerate(x[1].tolist())])


def take(x: list, settings: dict) -> Tensor:
    result = x[0]
    axes = x[3].tolist() if len(x) > 3 else range(len(x[1]))
    for begin, end, axis in zip(x[1].tolist(), x[2].tolist(), axes):
        size = result.shape[axis]
        begin, end = (min(max(value + size if value < 0 else value, 0), size) for value in (begin, end))
        result = result.narrow(axis, begin, end - begin)
    return result


def split(x: list, settings: dict) -> list[Tensor]:
    return list(torch.split(x[0], x[1].tolist(), settings.get("axis", 0)))


RULES: dict[str, Callable] = {
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": lambda x, settings: x[0] @ x[1],
    "Relu": lambda x, settings: x[0].clamp_min(0),
    "Clip": clip,
    "HardSigmoid": lambda x, s: (x[0] * s.get("alpha", 0.2) + s.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda x, settings: functional.hardswish(x[0]),
    "Sigmoid": lambda x, settings: x[0].sigmoid(),
    "Add": lambda x, settings: x[0] + x[1],
    "Mul": lambda x, settings: x[0] * x[1],
    "Div": lambda x, settings: x[0] / x[1],
    "MaxPool": max_pool,
    "Pad": pad,
    "GlobalAveragePool": lambda x, settings: x[0].mean((2, 3), keepdim=True),
    "ReduceMean": reduce_mean,
    "Flatten": lambda x, settings: x[0].flatten(settings.get("axis", 1)),
    "Reshape": reshape,
    "Transpose": lambda x, settings: x[0].permute(settings["perm"]),
    "Concat": lambda x, settings: torch.cat(x, settings["axis"]),
    "Slice": take,
    "Split": split,
    "Identity": lambda x, settings: x[0],
}
