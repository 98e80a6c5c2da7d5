"""pare itself, through the driver `examples/zoo`: one process a call, a JSON file back."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .networks import Network, Prepared

TIMEOUT_SECONDS = 900
SECONDS = 1.0  # of a latency measurement, eager and compiled calls by turns


class DriverError(RuntimeError):
    """The driver is not there or did not do what it was asked; the message says which."""


@dataclass(frozen=True)
class Zoo:
    """A recipe of the driver as a contestant."""

    executable: Path
    data: Path | None
    recipe: str = "int8"

    def check(self) -> None:
        if not self.executable.exists():
            raise DriverError(f"{os.path.relpath(self.executable)} is missing: build the target `zoo`")

    def accuracy(self, prepared: Prepared, model: Path) -> dict[str, Any]:
        """Full calibration and test set, by the rules of `samples.py`; leaves the result as a checkpoint."""
        source = prepared.network.source
        files = ["--weights", str(prepared.safetensors), "--seconds", "0.1", "--save", str(model)]
        if source is not None and self.data is not None:
            files += ["--test", str(self.data / source.test), *self._calibration(prepared, source.count)]
        return self._run(prepared.network, 1, 2, files)

    def latency(self, network: Network, model: Path, batch: int, threads: int) -> dict[str, Any]:
        """Of the checkpoint that `accuracy` left. bf16 is no property of a model: it is compiled from the float one."""
        source = [] if self.recipe == "bf16" else ["--load", str(model)]
        return self._run(network, batch, threads, [*source, "--seconds", str(SECONDS)])

    def export(self, prepared: Prepared, path: Path) -> dict[str, Any]:
        """The model as ONNX, quantized on the full calibration set."""
        source = prepared.network.source
        files = self._calibration(prepared, source.count) if source is not None else []
        files = ["--weights", str(prepared.safetensors), *files, "--seconds", "0.1", "--export", str(path)]
        return self._run(prepared.network, 1, 2, files)

    def _calibration(self, prepared: Prepared, count: int) -> list[str]:
        source = prepared.network.source
        if source is None or self.data is None:
            return []
        return ["--calibration", str(self.data / source.calibration), "--calibration-count", str(count)]

    def _run(self, network: Network, batch: int, threads: int, files: list[str]) -> dict[str, Any]:
        self.check()
        environment = {name: value for name, value in os.environ.items() if name not in ("CI", "NNCF_CI")}
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "zoo.json"
            command = [
                str(self.executable), "--model", network.name, "--recipe", self.recipe, "--batch", str(batch),
                "--threads", str(threads), "--json", str(result), *files,
            ]  # fmt: skip
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_SECONDS, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise DriverError(f"zoo did not end within {TIMEOUT_SECONDS} s") from error
            if done.returncode != 0:
                said = done.stderr.strip().splitlines()
                raise DriverError(f"zoo ended with {done.returncode}: {said[-1] if said else 'no message'}")
            return json.loads(result.read_text())
