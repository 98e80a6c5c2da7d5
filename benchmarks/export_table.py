#!/usr/bin/env python3
"""Exports example models as ONNX and tabulates how ONNX Runtime and OpenVINO agree with pare, and how fast each is.

    PARE_DATA=DIR benchmarks/export_table.py [--models resnet20,...] [--recipes float,int8,int8-onnxruntime]
                                             [--latency SECONDS] [--work DIR] [--markdown FILE]

Needs build/examples/zoo and the peers' environment (`benchmarks/compare_peers.py --setup-only`). Models with pretrained
weights in PARE_DATA run on their test sets, the others on random inputs with random weights. What is compared with are
the outputs of pare's own compiled model. Latencies are of one sample with two threads.

Measured in pieces, on a machine that is quiet for a minute at a time: `--work DIR` exports and compares once and keeps
the files; `--work DIR --latency-only` times rows that have no times yet (`--again`: the others, too), `--seconds-of-timing N`;
`--work DIR --print` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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

Rows = dict[str, dict]


class Files:
    """What a row leaves in the folder of work."""

    def __init__(self, work: Path, model: str, recipe: str) -> None:
        self.model, self.recipe, self.key = model, recipe, f"{model}.{recipe}"
        self.onnx, self.samples = work / f"{self.key}.onnx", work / f"{self.key}.safetensors"
        self.checkpoint = work / f"{self.key}.pare"

    def remove(self) -> None:
        for path in (self.onnx, self.samples, self.checkpoint):
            path.unlink(missing_ok=True)


def zoo(files: Files, options: list[str]) -> dict:
    with tempfile.TemporaryDirectory(prefix="pare-export-") as folder:
        result = Path(folder) / "zoo.json"
        command = [str(ROOT / "build/examples/zoo"), "--model", files.model, "--recipe", files.recipe]
        command += ["--threads", "2", "--batch", "1", "--json", str(result), *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"export_table: {files.key}: {done.stderr.strip()}")
        return json.loads(result.read_text())


def run_models(files: list[Files], options: list[str]) -> list[dict]:
    python = environment.directory() / "bin" / "python"
    command = [str(python), str(ROOT / "tests/onnx/run_models.py"), *options]
    for one in files:
        command += [str(one.onnx), str(one.samples)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"export_table: {files[0].key}: {done.stderr.strip().splitlines()[-1]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def export(files: Files, data: Path | None, seconds: float) -> dict:
    """The ONNX file, the samples and the checkpoint, written by the zoo; the row that they give."""
    options = ["--seconds", str(max(seconds, 0.1)), "--alone", "--export", str(files.onnx), "--samples", str(files.samples)]
    options += ["--save", str(files.checkpoint)]
    if data and files.model in PRETRAINED:
        weights, test, calibration, count = PRETRAINED[files.model]
        options += ["--weights", str(data / weights), "--test", str(data / test)]
        options += ["--calibration", str(data / calibration), "--calibration-count", str(count)]
    else:
        options += ["--calibration-count", "16"]
    found = zoo(files, options)
    row = run_models([files], ["--latency", str(seconds)])[0]
    if seconds > 0:
        row["pare"] = {"latency_ms": found["optimized"]["alone_ms"]}
    return row


def lower(result: dict, latency_ms: float) -> None:
    """What disturbs a machine only adds: of several measurements the lowest stays."""
    result["latency_ms"] = min(latency_ms, result.get("latency_ms", latency_ms))


def time_row(files: Files, row: dict, seconds: float) -> None:
    """Times of what an earlier call exported."""
    loaded = [] if files.recipe == "float" else ["--load", str(files.checkpoint)]
    found = zoo(files, [*loaded, "--seconds", str(seconds), "--alone"])
    times = run_models([files], ["--time-only", "--latency", str(seconds)])[0]
    for runtime in ("onnxruntime", "openvino"):
        if "latency_ms" in times.get(runtime, {}):
            lower(row[runtime], times[runtime]["latency_ms"])
    lower(row.setdefault("pare", {}), found["optimized"]["alone_ms"])


def milliseconds(result: dict) -> str:
    return f"{result['latency_ms']:.3g}" if "latency_ms" in result else "-"


def cells(row: dict, runtime: str, timed: bool) -> str:
    result, empty = row.get(runtime), "| " * (3 if timed else 2)
    if result is None:
        return f"not installed {empty}"
    if "error" in result:
        return f"refused: {result['error'].split(' node ')[0]} {empty}"
    text = f"{result['relative_difference']:.1e} | {result['sqnr_db']:.1f} | {result['flips']} of {result['samples']} "
    return text + (f"| {milliseconds(result)} " if timed else "")


def line(key: str, row: dict, timed: bool) -> str:
    model, kind = key.split(".", 1)
    kernels = ""
    if kind.startswith("int8") and "integer_layers" in row.get("onnxruntime", {}):
        result = row["onnxruntime"]
        kernels = f"{result['integer_layers']} of {result['integer_layers'] + result['float_layers']}"
    own = f" {milliseconds(row.get('pare', {}))} |" if timed else ""
    return (
        f"| {model} | {kind} | {row['bytes']} |{own} {cells(row, 'onnxruntime', timed)}| {kernels} "
        f"| {cells(row, 'openvino', timed)}|"
    )


def heading(timed: bool) -> list[str]:
    runtime = ["difference", "SQNR dB", "changed", *(["ms"] if timed else [])]
    columns = ["model", "", "bytes", *(["pare ms"] if timed else [])]
    columns += [f"ONNX Runtime: {runtime[0]}", *runtime[1:], "integer layers", f"OpenVINO: {runtime[0]}", *runtime[1:]]
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def table(rows: Rows) -> str:
    timed = any("pare" in row for row in rows.values())
    return "\n".join([*heading(timed), *(line(key, row, timed) for key, row in rows.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=lambda text: text.split(","), default=MODELS)
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=["float", "int8", "int8-onnxruntime"])
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="also time that long")
    parser.add_argument("--work", type=Path, help="folder for the exports and the rows; kept (default: a temporary one)")
    parser.add_argument("--latency-only", action="store_true", help="only time rows of --work that have no times yet")
    parser.add_argument("--again", action="store_true", help="with --latency-only: rows that have times, too; lower ones stay")
    parser.add_argument("--seconds-of-timing", type=float, default=1e9, metavar="N", help="begin no row after that")
    parser.add_argument("--print", action="store_true", help="only print the rows of --work")
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    if (arguments.latency_only or arguments.print) and arguments.work is None:
        sys.exit("export_table: --latency-only and --print need the --work of an earlier run")
    data = Path(os.environ["PARE_DATA"]) if os.environ.get("PARE_DATA") else None
    if not (environment.directory() / "bin" / "python").exists():
        sys.exit("export_table: no environment: run benchmarks/compare_peers.py --setup-only")
    with tempfile.TemporaryDirectory(prefix="pare-export-") as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        known = work / "rows.json"
        rows: Rows = json.loads(known.read_text()) if known.exists() else {}
        start = time.monotonic()
        for model in arguments.models if not arguments.print else []:
            for recipe in arguments.recipes:
                files = Files(work, model, recipe)
                if arguments.latency_only:
                    if files.key not in rows or ("pare" in rows[files.key] and not arguments.again):
                        continue
                    if time.monotonic() - start > arguments.seconds_of_timing:
                        continue
                    time_row(files, rows[files.key], arguments.latency or 0.5)
                else:
                    rows[files.key] = export(files, data, arguments.latency)
                    if arguments.work is None:
                        files.remove()
                known.write_text(json.dumps(rows, indent=1))
                print(line(files.key, rows[files.key], "pare" in rows[files.key]), flush=True)
    text = table(rows)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
