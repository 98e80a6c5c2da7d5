#!/usr/bin/env python3
"""Exports example models as ONNX and tabulates how ONNX Runtime and OpenVINO agree with pare.

    PARE_DATA=DIR benchmarks/export_table.py [--models resnet20,...] [--recipes float,int8,int8-onnxruntime]
                                             [--latency SECONDS] [--markdown FILE]

Needs build/examples/zoo and the peers' environment (`benchmarks/compare_peers.py --setup-only`). Models with pretrained
weights in PARE_DATA run on their test sets, the others on random inputs with random weights. What is compared with are
the outputs of pare's own compiled model. Latencies are of one sample with two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import environment

ROOT = environment.ROOT
# model: weights, test, calibration, how many calibrate
PRETRAINED = {
    "resnet20": ("cifar10/resnet20.safetensors", "cifar10/test_lossless_461.bin", "cifar10/train_lossless_3805.bin", 256),
    "resnet56": ("cifar10/resnet56.safetensors", "cifar10/test_lossless_461.bin", "cifar10/train_lossless_3805.bin", 256),
    "resnet8": ("mlperf_tiny_resnet8/resnet8_cifar10.safetensors", "cifar10/test_lossless_461.bin", "cifar10/train_lossless_3805.bin", 256),
    "efficientnet_lite0": ("efficientnet_lite0/efficientnet_lite0_fp16.safetensors", "imagenet_sample", "imagenet_sample", 64),
    "squeezenet": ("squeezenet_v1.1/squeezenet_v1.1_fp16.safetensors", "imagenet_sample", "imagenet_sample", 64),
    "minilm_sst2": ("minilm_l6_sst2/minilm_l6_sst2_fp16.safetensors", "sst2/dev.tsv", "sst2/train.tsv", 128),
}  # fmt: skip
MODELS = "bert6x384 densenet digits_mlp efficientnet_lite0 efficientnet_lite1 ghostnet gru inception lenet llama lstm minilm_sst2 mlp mobilenetv2 mobilenetv3 multi_head resnet18 resnet20 resnet32 resnet44 resnet50 resnet56 resnet8 resnext50 shufflenetv2 squeezenet swin transformer two_tower unet".split()  # fmt: skip


def export(model: str, recipe: str, folder: Path, data: Path | None, seconds: float) -> tuple[Path, Path, float]:
    """The ONNX file and the samples, written by the zoo, and the latency of the compiled model."""
    result = folder / "zoo.json"
    onnx, samples = folder / f"{model}.{recipe}.onnx", folder / f"{model}.{recipe}.safetensors"
    command = [str(ROOT / "build/examples/zoo"), "--model", model, "--recipe", recipe, "--seconds", str(max(seconds, 0.1))]
    command += ["--threads", "2", "--batch", "1", "--json", str(result)]
    command += ["--export", str(onnx), "--samples", str(samples)]
    if data and model in PRETRAINED:
        weights, test, calibration, count = PRETRAINED[model]
        command += ["--weights", str(data / weights), "--test", str(data / test)]
        command += ["--calibration", str(data / calibration), "--calibration-count", str(count)]
    else:
        command += ["--calibration-count", "16"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    if done.returncode != 0:
        sys.exit(f"export_table: {model} {recipe}: {done.stderr.strip()}")
    return onnx, samples, json.loads(result.read_text())["optimized"]["latency_ms"]


def cells(row: dict, runtime: str, timed: bool) -> str:
    result, empty = row.get(runtime), "| " * (3 if timed else 2)
    if result is None:
        return f"not installed {empty}"
    if "error" in result:
        return f"refused: {result['error'].split(' node ')[0]} {empty}"
    text = f"{result['relative_difference']:.1e} | {result['sqnr_db']:.1f} | {result['flips']} of {result['samples']} "
    return text + (f"| {result['latency_ms']:.2f} " if timed else "")


def line(model: str, kind: str, row: dict, own_ms: float | None) -> str:
    timed = own_ms is not None
    kernels = ""
    if kind.startswith("int8") and "integer_layers" in row.get("onnxruntime", {}):
        result = row["onnxruntime"]
        kernels = f"{result['integer_layers']} of {result['integer_layers'] + result['float_layers']}"
    own = f" {own_ms:.2f} |" if timed else ""
    return (
        f"| {model} | {kind} | {row['bytes']} |{own} {cells(row, 'onnxruntime', timed)}| {kernels} "
        f"| {cells(row, 'openvino', timed)}|"
    )


def heading(timed: bool) -> list[str]:
    runtime = ["difference", "SQNR dB", "changed", *(["ms"] if timed else [])]
    columns = ["model", "", "bytes", *(["pare ms"] if timed else [])]
    columns += [f"ONNX Runtime: {runtime[0]}", *runtime[1:], "integer layers", f"OpenVINO: {runtime[0]}", *runtime[1:]]
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=lambda text: text.split(","), default=MODELS)
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=["float", "int8", "int8-onnxruntime"])
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="also time that long")
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    data = Path(os.environ["PARE_DATA"]) if os.environ.get("PARE_DATA") else None
    python = environment.directory() / "bin" / "python"
    if not python.exists():
        sys.exit("export_table: no environment: run benchmarks/compare_peers.py --setup-only")
    timed = arguments.latency > 0
    lines = heading(timed)
    print("\n".join(lines), flush=True)
    for model in arguments.models:
        for kind in arguments.recipes:
            with tempfile.TemporaryDirectory(prefix="pare-export-") as folder:
                onnx, samples, own_ms = export(model, kind, Path(folder), data, arguments.latency)
                command = [str(python), str(ROOT / "tests/onnx/run_models.py"), str(onnx), str(samples)]
                command += ["--latency", str(arguments.latency)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode != 0:
                    sys.exit(f"export_table: {model} {kind}: {done.stderr.strip().splitlines()[-1]}")
                lines.append(line(model, kind, json.loads(done.stdout), own_ms if timed else None))
                print(lines[-1], flush=True)
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
