"""The contestants: LibTorch through Python, ONNX Runtime, and OpenVINO with NNCF, each float and int8.

A contestant turns the ONNX file (or the module) of a network into an artefact once, timed, and then builds runners for
given sizes and threads from it. Toolkit imports are local, so that one that is missing only takes its own columns.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .networks import Prepared
from .samples import Feed

Runner = Callable[[Feed], np.ndarray]


@dataclass(frozen=True)
class Artefact:
    """What quantization left: a toolkit's own object or file, its bytes on disk and the seconds it took."""

    handle: Any
    file_bytes: int
    seconds: float | None = None


class Contestant(Protocol):
    """`baseline` names the float contestant that accuracy is compared with; its own name where it is float."""

    @property
    def name(self) -> str: ...

    @property
    def baseline(self) -> str: ...

    def suits(self, prepared: Prepared) -> bool: ...

    def build(self, prepared: Prepared, work: Path) -> Artefact: ...

    def runner(self, artefact: Artefact, threads: int, feed: Feed | None) -> Runner:
        """A callable for feeds like `feed`; for any size where it is None."""
        ...


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Toolkits print progress bars and advice; here only their exceptions count."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


@dataclass(frozen=True)
class TorchEager:
    """The module as it is: PyTorch eager fp32, in the default layout or channels-last."""

    name: str = "torch"
    channels_last: bool = False
    baseline: str = "torch"

    def suits(self, prepared: Prepared) -> bool:
        return not (self.channels_last and prepared.network.is_transformer)

    def build(self, prepared: Prepared, work: Path) -> Artefact:
        import torch

        module = copy.deepcopy(prepared.module).eval()
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        return Artefact(module, prepared.onnx.stat().st_size)

    def runner(self, artefact: Artefact, threads: int, feed: Feed | None) -> Runner:
        import torch

        def run(inputs: Feed) -> np.ndarray:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            given = [torch.from_numpy(values) for values in inputs.values()]
            if self.channels_last:
                given = [values.contiguous(memory_format=torch.channels_last) for values in given]
            with torch.inference_mode():
                return artefact.handle(*given).numpy()

        return run


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime, float or with static int8 QDQ: u8 activations by min-max, s8 weights.

    `only` limits quantization to some operators: for transformers the defaults also quantize the masked scores, whose
    range of -10000 leaves nothing to the scores themselves; the usual remedy is to quantize the matrix products and the
    embeddings alone.
    """

    name: str = "onnxruntime"
    int8: bool = True
    per_channel: bool = True
    only: tuple[str, ...] = ()
    baseline: str = "onnxruntime_float"

    def suits(self, prepared: Prepared) -> bool:
        return not self.only or prepared.network.is_transformer

    def build(self, prepared: Prepared, work: Path) -> Artefact:
        if not self.int8:
            return Artefact(prepared.onnx, prepared.onnx.stat().st_size)
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self, feeds: list[Feed]) -> None:
                self._feeds = iter(feeds)

            def get_next(self) -> Feed | None:
                return next(self._feeds, None)

        folded = work / f"{prepared.network.name}.{self.name}.folded.onnx"
        result = work / f"{prepared.network.name}.{self.name}.onnx"
        start = time.perf_counter()
        with quiet():
            quant_pre_process(str(prepared.onnx), str(folded), skip_symbolic_shape=prepared.network.is_transformer)
            quantize_static(
                str(folded),
                str(result),
                Reader(prepared.samples.calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=self.per_channel,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(self.only) or None,
            )
        return Artefact(result, result.stat().st_size, time.perf_counter() - start)

    def runner(self, artefact: Artefact, threads: int, feed: Feed | None) -> Runner:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(artefact.handle), options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)[0]


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO, float or quantized by NNCF; latency hint, one stream.

    `bias_correction` is none, fast or full. `precision` is the type of what is not int8; OpenVINO itself would take
    bf16 for it where the processor has bf16 instructions. For transformers NNCF runs with its transformer recipe,
    and `smooth_quant` says whether that includes SmoothQuant.
    """

    name: str
    bias_correction: str | None = "fast"
    smooth_quant: bool = False
    precision: str = "f32"
    baseline: str = "openvino_float"

    def suits(self, prepared: Prepared) -> bool:
        return prepared.network.is_transformer or not self.smooth_quant

    def build(self, prepared: Prepared, work: Path) -> Artefact:
        import openvino

        start = time.perf_counter()
        model = openvino.convert_model(str(prepared.onnx))
        seconds = None
        if self.bias_correction is not None:
            with quiet():
                model = self._quantize(model, prepared)
            seconds = time.perf_counter() - start
        path = work / f"{prepared.network.name}.{self.name}.xml"
        openvino.save_model(model, str(path), compress_to_fp16=False)
        size = path.stat().st_size + path.with_suffix(".bin").stat().st_size
        return Artefact(path, size, seconds)

    def _quantize(self, model: Any, prepared: Prepared) -> Any:
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

        nncf.set_log_level(logging.ERROR)
        advanced = AdvancedQuantizationParameters(disable_bias_correction=self.bias_correction == "none")
        if prepared.network.is_transformer and not self.smooth_quant:
            advanced.smooth_quant_alphas = AdvancedSmoothQuantParameters(matmul=-1)
        feeds = prepared.samples.calibration
        return nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            fast_bias_correction=self.bias_correction != "full",
            model_type=nncf.ModelType.TRANSFORMER if prepared.network.is_transformer else None,
            advanced_parameters=advanced,
        )

    def runner(self, artefact: Artefact, threads: int, feed: Feed | None) -> Runner:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(artefact.handle))
        if feed is not None:
            model.reshape({name: list(values.shape) for name, values in feed.items()})
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return lambda inputs: np.array(request.infer(inputs, share_inputs=True, share_outputs=True)[0], copy=True)


CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        TorchEager(),
        TorchEager("torch_channels_last", channels_last=True),
        OnnxRuntime("onnxruntime_float", int8=False),
        OnnxRuntime("onnxruntime"),
        OnnxRuntime("onnxruntime_matmul", only=("MatMul", "Gemm", "Gather")),
        OnnxRuntime("onnxruntime_per_tensor", per_channel=False),
        OpenVino("openvino_float", bias_correction=None),
        OpenVino("openvino_float_bf16", bias_correction=None, precision="bf16"),
        OpenVino("openvino_none", bias_correction="none"),
        OpenVino("openvino_fast"),
        OpenVino("openvino_full", bias_correction="full"),
        OpenVino("openvino_smoothquant", smooth_quant=True),
    )
}


def forbid_usage_statistics() -> None:
    """OpenVINO and NNCF send usage statistics unless they believe to run in CI; measuring is not usage."""
    os.environ.setdefault("CI", "true")
    os.environ.setdefault("NNCF_CI", "1")
