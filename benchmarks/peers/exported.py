"""What pare exports, in the runtimes of the others: float ONNX and QDQ, written by the driver `examples/zoo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .contestants import CONTESTANTS, Artefact, Contestant, OnnxRuntime, OpenVino, Runner
from .environment import ROOT, data_directory
from .networks import Prepared
from .pare_driver import Zoo
from .samples import Feed


def renamed(feed: Feed) -> Feed:
    """The inputs under the names that an export gives them: x, x1, ..."""
    return {f"x{i or ''}": values for i, values in enumerate(feed.values())}


@dataclass(frozen=True)
class Exported:
    """An export of pare in one runtime; `recipe` is the driver's."""

    name: str
    runtime: OnnxRuntime | OpenVino
    recipe: str
    baseline: str

    def suits(self, prepared: Prepared) -> bool:
        return True

    def build(self, prepared: Prepared, work: Path) -> Artefact:
        path = work / f"{prepared.network.name}.{self.name}.onnx"
        data = data_directory()
        zoo = Zoo(ROOT / "build" / "examples" / "zoo", data, self.recipe)
        found = zoo.export(prepared, path)
        return Artefact(path, path.stat().st_size, found["capture_s"] + found["optimize_s"])

    def runner(self, artefact: Artefact, threads: int, feed: Feed | None) -> Runner:
        run = self.runtime.runner(artefact, threads, renamed(feed) if feed is not None else None)
        return lambda inputs: run(renamed(inputs))


EXPORTED: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        Exported("pare_onnx_onnxruntime_float", OnnxRuntime(int8=False), "float", "onnxruntime_float"),
        Exported("pare_onnx_onnxruntime", OnnxRuntime(int8=False), "int8", "onnxruntime_float"),
        Exported("pare_onnx_for_onnxruntime", OnnxRuntime(int8=False), "int8-onnxruntime", "onnxruntime_float"),
        Exported("pare_onnx_openvino_float", OpenVino("openvino", bias_correction=None), "float", "openvino_float"),
        Exported("pare_onnx_openvino", OpenVino("openvino", bias_correction=None), "int8", "openvino_float"),
    )
}

ALL: dict[str, Contestant] = {**CONTESTANTS, **EXPORTED}
