#!/usr/bin/env python3
"""What including <pare/pare.hpp> adds to a file that includes <torch/torch.h>: seconds of the compiler.

Usage, after a build: benchmarks/include_cost.py [--build build] [--runs 5]
Prints medians of alternating runs, and what is left on top; nothing is precompiled or cached.
"""
import argparse
import json
import resource
import shlex
import statistics
import subprocess
import tempfile
from pathlib import Path

SOURCES = {
    "<torch/torch.h>": "#include <torch/torch.h>\n",
    "<torch/torch.h> and <pare/pare.hpp>": "#include <torch/torch.h>\n#include <pare/pare.hpp>\n",
}


def compiler_call(build: Path) -> list[str]:
    """The flags that the build gives a benchmark, without launcher, precompiled header, input and output."""
    database = subprocess.run(["ninja", "-C", build, "-t", "compdb"], check=True, capture_output=True, text=True)
    entry = next(e for e in json.loads(database.stdout)
                 if "capture_benchmark.dir" in e["command"] and " -c " in e["command"])
    words = [word for word in shlex.split(entry["command"]) if Path(word).name != "ccache"]
    call: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("-o", "-c", "-MF", "-MT", "-include"):
            skip = True
        elif word not in ("-MD", "-Winvalid-pch"):
            call.append(word)
    return call


def cpu_seconds(call: list[str], cwd: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(call, check=True, cwd=cwd)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    call = compiler_call(options.build)
    seconds: dict[str, list[float]] = {name: [] for name in SOURCES}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(options.runs + 1):
            for name, text in SOURCES.items():
                source = Path(folder) / "source.cpp"
                source.write_text(text)
                taken = cpu_seconds([*call, "-c", str(source), "-o", f"{folder}/source.o"], options.build)
                if run > 0:  # the first fills the file cache
                    seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<40} {value:6.2f} s")
    alone, both = medians.values()
    print(f"{'added by pare':<40} {both - alone:6.2f} s")


if __name__ == "__main__":
    main()
