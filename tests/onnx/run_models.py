#!/usr/bin/env python3
"""Runs exported models in ONNX Runtime and OpenVINO and compares them with what pare computed.

    run_models.py [--json FILE] [--runtimes onnxruntime,openvino] [--latency SECONDS] [--time-only]
                  MODEL.onnx SAMPLES.safetensors [...]

SAMPLES holds the inputs as `in.<name>` and pare's outputs as `out.<name>`. Every model first passes onnx.checker. A row
says the largest difference from pare's outputs, their SQNR, changed predictions, and which integer kernels ONNX Runtime
runs: counted in the graph that it optimized, not assumed. `--latency SECONDS` also times one sample, with two threads;
with `--time-only` that is all that is done.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import load_file

INTEGER_KERNELS = {"QLinearConv", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearMul", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConcat", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearWhere"}  # fmt: skip
FLOAT_KERNELS = {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "MatMul", "FusedMatMul"}

Feed = dict[str, np.ndarray]
Runner = Callable[[Feed], list[np.ndarray]]


def float_layers(graph: onnx.GraphProto) -> dict[str, int]:
    """Convolutions and products that compute in float: all, and those with weights. Batch norms are neither, whatever
    the runtime makes of them."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}

    def constant(name: str) -> bool:
        maker = makers.get(name)
        return name in constants or (maker is not None and maker.op_type == "DequantizeLinear" and constant(maker.input[0]))  # fmt: skip

    found = [node for node in graph.node if node.op_type in FLOAT_KERNELS and not node.name.endswith("_bn_nchwc")]
    weighted = [node for node in found if any(constant(name) for name in node.input[:2])]
    return {"float_layers": len(found), "float_weighted": len(weighted)}


def open_onnxruntime(path: Path) -> tuple[Runner, dict[str, int]]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 2
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    kinds = dict(collections.Counter(node.op_type for node in optimized.graph.node))
    return lambda feed: session.run(None, feed), kinds | float_layers(optimized.graph)


def open_openvino(path: Path) -> tuple[Runner, dict[str, int]]:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "2"}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    kinds: collections.Counter[str] = collections.Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul", "Deconvolution"):
            kinds[f"{info['layerType'].astype(str)}:{info['runtimePrecision'].astype(str)}"] += 1

    def run(feed: Feed) -> list[np.ndarray]:
        results = compiled(feed)
        return [results[output] for output in compiled.outputs]

    return run, dict(kinds)


RUNTIMES = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}


def latency_ms(run: Runner, feed: Feed, seconds: float) -> float:
    """The median of runs on the first sample."""
    one = {name: values[:1] for name, values in feed.items()}
    for _ in range(3):
        run(one)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run(one)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def compare(expected: list[np.ndarray], actual: list[np.ndarray]) -> dict[str, float | int]:
    """Over all outputs; predictions are those of the first."""
    for want, got in zip(expected, actual, strict=True):
        if want.shape != got.shape:
            raise SystemExit(f"shape {got.shape} where pare has {want.shape}")
    signal = sum(float(np.square(want.astype(np.float64)).sum()) for want in expected)
    noise = sum(
        float(np.square(want.astype(np.float64) - got).sum()) for want, got in zip(expected, actual, strict=True)
    )
    largest = max(float(np.abs(want.astype(np.float64) - got).max(initial=0)) for want, got in zip(expected, actual))
    scale = max(float(np.abs(want).max(initial=0)) for want in expected)
    rows, seen = expected[0].reshape(len(expected[0]), -1), actual[0].reshape(len(actual[0]), -1)
    return {
        "max_difference": largest,
        "relative_difference": largest / scale if scale else largest,
        "sqnr_db": 200.0 if noise == 0 else min(200.0, 10 * np.log10(signal / noise)),
        "samples": len(rows),
        "flips": int((rows.argmax(1) != seen.argmax(1)).sum()),
    }


def check(path: Path, samples: Path, runtimes: list[str], latency: float) -> dict:
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path), load_external_data=False)
    tensors = load_file(str(samples))
    feed = {port.name: tensors[f"in.{port.name}"] for port in model.graph.input}
    expected = [tensors[f"out.{port.name}"] for port in model.graph.output]
    row: dict = {"model": path.name, "bytes": path.stat().st_size, "opset": model.opset_import[0].version}
    for name in runtimes:
        try:
            run, kernels = RUNTIMES[name](path)
            actual = run(feed)
        except ImportError:
            continue
        except RuntimeError as error:  # a limit of the runtime, for the caller to judge
            row[name] = {"error": str(error).strip().splitlines()[-1]}
            continue
        kept = {kind: count for kind, count in kernels.items() if kind in INTEGER_KERNELS or ":" in kind}
        row[name] = compare(expected, actual) | {"kernels": kept}
        if latency:
            row[name]["latency_ms"] = latency_ms(run, feed, latency)
        if name == "onnxruntime":
            row[name]["integer_layers"] = sum(
                count for kind, count in kernels.items() if kind in INTEGER_KERNELS and ("Conv" in kind or "MatMul" in kind or "Gemm" in kind)
            )  # fmt: skip
            row[name] |= {kind: kernels[kind] for kind in ("float_layers", "float_weighted")}
    return row


def time_only(path: Path, samples: Path, runtimes: list[str], latency: float) -> dict:
    model = onnx.load(str(path), load_external_data=False)
    tensors = load_file(str(samples))
    feed = {port.name: tensors[f"in.{port.name}"][:1] for port in model.graph.input}
    row: dict = {"model": path.name}
    for name in runtimes:
        try:
            row[name] = {"latency_ms": latency_ms(RUNTIMES[name](path)[0], feed, latency)}
        except ImportError:
            continue
        except RuntimeError as error:
            row[name] = {"error": str(error).strip().splitlines()[-1]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runtimes", default="onnxruntime,openvino")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--time-only", action="store_true")
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("CI", "true")  # OpenVINO reports no usage statistics then
    rows = []
    for path, samples in zip(arguments.files[::2], arguments.files[1::2], strict=True):
        look = time_only if arguments.time_only else check
        rows.append(look(path, samples, arguments.runtimes.split(","), arguments.latency))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    sys.exit(main())
