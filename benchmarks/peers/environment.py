"""The peers' own virtual environment: created on first use, completed when the requirements change.

Only the standard library is imported here, since this runs before anything is installed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "benchmarks" / "requirements-peers.txt"


def directory() -> Path:
    """Where the environment lives: PARE_PEERS_VENV, or .venv-peers in the project."""
    return Path(os.environ.get("PARE_PEERS_VENV", ROOT / ".venv-peers")).resolve()


def data_directory() -> Path | None:
    """PARE_DATA, or `shared/data` beside the project; None where there is no such folder."""
    path = Path(os.environ.get("PARE_DATA", ROOT.parent / "shared" / "data"))
    return path if path.is_dir() else None


def requirements() -> list[str]:
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return [line for line in lines if line]


def is_active() -> bool:
    return Path(sys.prefix).resolve() == directory()


def prepare() -> Path:
    """Creates and fills the environment; returns its interpreter.

    A requirement that cannot be had does not stop the others: it is tried in the pinned version, then in any
    version, and what is still missing is reported by `versions()`.
    """
    python = directory() / "bin" / "python"
    if not python.exists():
        print(f"peers: creating the environment {directory().name}", flush=True)
        venv.create(directory(), with_pip=True)
    stamp = directory() / "requirements.installed"
    if stamp.exists() and stamp.read_text() == REQUIREMENTS.read_text():
        return python
    print(f"peers: installing {', '.join(requirements())}", flush=True)
    if not _install(python, ["-r", str(REQUIREMENTS)]):
        print("peers: not all of it can be had together; trying one by one", flush=True)
        for requirement in requirements():
            name = requirement.split("==")[0]
            pinned_only = name == "torch"
            if _install(python, [requirement]):
                continue
            if pinned_only or not _install(python, [name]):
                print(f"peers: {requirement} cannot be installed; its columns will be absent", flush=True)
            else:
                print(f"peers: {requirement} cannot be installed; took another version of {name}", flush=True)
    else:
        stamp.write_text(REQUIREMENTS.read_text())
    return python


def _install(python: Path, arguments: list[str]) -> bool:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"peers: pip: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}", flush=True)
    return done.returncode == 0


def versions() -> dict[str, str | None]:
    """Installed version of each requirement; None where it is missing."""
    found: dict[str, str | None] = {}
    for requirement in requirements():
        name = requirement.split("==")[0]
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, str | int | list[str]]:
    """What the figures depend on: processor, cores and the instruction sets that int8 kernels use."""
    model, flags = platform.processor() or platform.machine(), set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    wanted = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return {"processor": model, "cores": os.cpu_count() or 1, "instructions": [f for f in wanted if f in flags]}
