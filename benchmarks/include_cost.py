#!/usr/bin/env python3
"""What including <pare/pare.hpp> adds to a file that includes <torch/torch.h>: seconds of the compiler.

Usage, after a build: benchmarks/include_cost.py [--build build] [--runs 5]
Prints medians of alternating runs, and what is left on top; nothing is precompiled or cached. GCC collects its garbage
whenever what it holds has grown by a share: LibTorch's header alone ends just below such a point, and whatever comes behind
it, pare or your own code, passes it and pays for one more collection. So both are measured: as it is, and with the
collector out of the way.
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


WITHOUT_COLLECTOR = ["--param", "ggc-min-heapsize=16000000"]  # in KiB: more than is ever allocated


def is_gcc(call: list[str]) -> bool:
    version = subprocess.run([call[0], "--version"], check=True, capture_output=True, text=True).stdout
    return "Free Software Foundation" in version


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
    ways = {"": call}
    if is_gcc(call):
        ways[", no collector"] = [*call, *WITHOUT_COLLECTOR]
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(options.runs + 1):
            for way, words in ways.items():
                for name, text in SOURCES.items():
                    source = Path(folder) / "source.cpp"
                    source.write_text(text)
                    taken = cpu_seconds([*words, "-c", str(source), "-o", f"{folder}/source.o"], options.build)
                    if run > 0:  # the first fills the file cache
                        seconds.setdefault((way, name), []).append(taken)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    for way in ways:
        alone, both = (medians[way, name] for name in SOURCES)
        for name in SOURCES:
            print(f"{name + way:<52} {medians[way, name]:6.2f} s")
        print(f"{'added by pare' + way:<52} {both - alone:6.2f} s")


if __name__ == "__main__":
    main()
