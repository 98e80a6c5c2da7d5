#!/usr/bin/env python3
"""Why two runtimes differ on a quantized network: what float arithmetic makes of its roundings.

    build/examples/zoo --model mobilenetv2 --recipe int8-onnxruntime --export net.onnx --samples net.safetensors
    benchmarks/export_rounding.py net.onnx [--layers]

For the first samples beside each file (`net.safetensors`) the network is computed by PyTorch in float64 and in float32,
by ONNX Runtime, and by pare (whose outputs lie in the samples); a row says how far they are from each other, in dB.
`--layers` counts, for layers that read integers and write integers, how many come out a quantum off when a layer that has
the right inputs computes in float32 as oneDNN does (one multiply, one add, zero points folded in) and as ONNX Runtime does
(integer bias and zero point, one multiply). Convolutional networks only.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from pathlib import Path

from peers import environment


def sqnr(reference, other) -> float:
    import torch

    noise = (reference - other).square().sum()
    return float("inf") if noise == 0 else float(10 * torch.log10(reference.square().sum() / noise))


def in_onnxruntime(path: Path, feed: dict):
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, feed)[0]).double()


def layer_counts(network, values) -> dict[str, list[int]]:
    """kind of layer: integers, moved by folded float32, moved by integer bias and one multiply."""
    import torch

    from peers.qdq import attributes, bounds, convolution

    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for node in network.graph.node:
        behind = network.rounding_behind(node) if node.op_type in ("Conv", "Gemm") else None
        source, weights = (network.integers_behind(name) for name in node.input[:2])  if behind is not None else (None, None)
        if source is None or weights is None:
            continue
        settings = attributes(node)
        x, weight = values[source.input[0]].double(), values[weights.input[0]].double()
        scale, zero = values[source.input[1]], int(values[source.input[2]])
        if node.op_type == "Conv":
            total, ones = convolution(x, weight, settings, zero), convolution(torch.ones_like(x), weight, settings, 1)
        else:
            weight = weight.t() if settings.get("transB") else weight
            total, ones = x @ weight, torch.ones_like(x) @ weight
        shape = [1, -1] + [1] * (total.dim() - 2)
        to = values[behind.input[1]]
        factor = (scale * values[weights.input[1]] / to).reshape(shape if values[weights.input[1]].numel() > 1 else [1] * len(shape))
        bias = torch.zeros(1) if len(node.input) < 3 else values[network.integers_behind(node.input[2]).input[0]].double()
        bias = bias.reshape(shape)
        target, (low, high) = int(values[behind.input[2]]), bounds(values[behind.input[2]].dtype)
        right = values[behind.output[0]].int()
        short = factor.float().double()
        # An image's border is zero points: there the kernel subtracts them as integers.
        padded = any(settings.get("pads", [0]))
        start = total - zero * ones if padded else total
        constant = factor * bias + target - (0 if padded else factor * zero * ones)
        folded = (start * short + constant.float().double()).float()
        exact = torch.round(((total - zero * ones + bias) * short).float()) + target
        kind = ("depthwise " if settings.get("group", 1) > 1 else "") + node.op_type + (", zero points" if zero else "")
        row = counts[kind]
        row[0] += right.numel()
        row[1] += int((torch.round(folded).clamp(low, high).int() != right).sum())
        row[2] += int((exact.clamp(low, high).int() != right).sum())
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=3, help="how many of each file (default: 3)")
    parser.add_argument("--layers", action="store_true", help="count moved integers by kind of layer")
    arguments = parser.parse_args()
    if not environment.is_active():
        python = environment.prepare()
        os.execv(python, [str(python), *sys.argv])
    import torch
    from peers.qdq import Network, NotCovered
    from safetensors.numpy import load_file

    torch.set_num_threads(1)
    pairs = ["float32 from float64", "ONNX Runtime from float64", "pare from float64", "ONNX Runtime from pare"]
    print("| file | " + " | ".join(f"{name}, dB" for name in pairs) + " |\n" + "|---" * 5 + "|", flush=True)
    for path in arguments.files:
        tensors = load_file(str(path.with_suffix(".safetensors")))
        network = Network(path)
        feed = {port.name: tensors[f"in.{port.name}"][: arguments.samples] for port in network.graph.input}
        pare = torch.from_numpy(tensors["out.output"][: arguments.samples]).double()
        try:
            values = network.run(feed, torch.float64)
            short = network.output(network.run(feed, torch.float32))
        except NotCovered as operator:
            print(f"| {path.stem} | not covered: {operator} | | | |", flush=True)
            continue
        right, theirs = network.output(values), in_onnxruntime(path, feed)
        found = [sqnr(right, short), sqnr(right, theirs), sqnr(right, pare), sqnr(pare, theirs)]
        print(f"| {path.stem} | " + " | ".join(f"{value:.1f}" for value in found) + " |", flush=True)
        if arguments.layers:
            for kind, (count, folded, exact) in sorted(layer_counts(network, values).items()):
                print(f"    {kind}: of {count} integers {folded} moved by one multiply and one add, {exact} by an integer bias")


if __name__ == "__main__":
    main()
