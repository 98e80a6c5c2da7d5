#!/usr/bin/env python3
"""Compares pare with ONNX Runtime and OpenVINO/NNCF on the same weights, images and calibration samples.

    PARE_DATA=DIR benchmarks/compare_peers.py [--models resnet20,...] [--peers pare,onnxruntime,...]

Prints, for each network, accuracy, logits SQNR and changed predictions against the contestant's own float model, bytes
on disk, time to quantize, and latencies of interleaved rounds. The peers live in an environment of their own
(`.venv-peers`, or PARE_PEERS_VENV), made on first use from `benchmarks/requirements-peers.txt`. pare runs through
`build/examples/zoo`. Which samples are used is said in `benchmarks/peers/samples.py`. Without PARE_DATA (default:
`shared/data` beside the project) all networks run on random weights, for speed only.

Measure on a quiet machine: `--work DIR --rounds 0` builds and judges first, `--work DIR --latency-only --models M
--batch B` then times in pieces; with `--rounds 0` it prints what was found.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import tempfile
from pathlib import Path

from peers import environment


def numbers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return values


def names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=names, default=[], help="networks, separated by commas (default: all)")
    parser.add_argument("--peers", type=names, default=[], help="contestants, separated by commas (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of latency; 0: accuracy only")
    parser.add_argument("--batch", type=numbers, default=[1, 8], help="batch sizes of the latencies (default: 1,8)")
    parser.add_argument("--threads", type=numbers, default=[1, 2], help="threads of the latencies (default: 1,2)")
    driver = environment.ROOT / "build" / "examples" / "zoo"
    parser.add_argument("--zoo", type=Path, default=driver, help="pare's driver (default: build/examples/zoo)")
    parser.add_argument("--json", type=Path, help="file for the figures as JSON")
    parser.add_argument("--markdown", type=Path, help="file for the figures as Markdown")
    parser.add_argument("--work", type=Path, help="folder for what is built and found; kept (default: a temporary one)")
    parser.add_argument("--latency-only", action="store_true", help="only time what an earlier run left in --work")
    parser.add_argument("--pruning", action="store_true", help="only time the pruning of ResNet-50 (Torch-Pruning)")
    parser.add_argument("--training", action="store_true", help="only time steps of training ResNet-20 (PyTorch)")
    parser.add_argument("--sensitivity", action="store_true", help="only sweep sensitivities (plain PyTorch)")
    parser.add_argument("--list", action="store_true", help="list networks and contestants")
    parser.add_argument("--setup-only", action="store_true", help="only make the peers' environment")
    return parser.parse_args()


def choose(wanted: list[str], known: list[str], what: str) -> list[str]:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"compare_peers: no {what} {', '.join(unknown)}; known are {', '.join(known)}")
    return wanted or known


def main() -> None:
    arguments = parse_arguments()
    if not environment.is_active():
        python = environment.prepare()
        os.execv(python, [str(python), *sys.argv])
    if arguments.setup_only:
        return

    versions = environment.versions()
    needed = [name for name in ("torch", "numpy", "pillow", "safetensors", "onnx") if versions[name] is None]
    if needed:
        sys.exit(f"compare_peers: nothing can be compared without {', '.join(needed)}")
    from peers import comparison, networks, report
    from peers.contestants import forbid_usage_statistics

    forbid_usage_statistics()
    models = choose(arguments.models, list(networks.NETWORKS), "network")
    contestants = choose(arguments.peers, comparison.contestant_names(), "contestant")
    if arguments.list:
        print("networks:", *models, "\ncontestants:", *contestants)
        return
    if arguments.pruning:
        from peers import pruning

        print(f"torch-pruning: {versions['torch-pruning']}")
        print(pruning.compare(arguments.zoo, arguments.rounds))
        return
    if arguments.training:
        from peers import training

        print(f"torch: {versions['torch']}")
        print(training.compare(arguments.zoo.parents[1] / "benchmarks" / "qat_benchmark", arguments.rounds))
        return
    if arguments.sensitivity:
        from peers import sensitivity

        if (data := environment.data_directory()) is None:
            sys.exit("compare_peers: sensitivities are measured on data: set PARE_DATA")
        wanted = choose(arguments.models, list(sensitivity.NETWORKS), "network with data")
        benchmark = environment.ROOT / "build" / "benchmarks" / "sensitivity_benchmark"
        print(sensitivity.compare(benchmark, data, wanted))
        return
    data = environment.data_directory()
    if data is None:
        print("compare_peers: no PARE_DATA: random weights, no accuracies")
    for name, version in versions.items():
        print(f"{name}: {version or 'NOT INSTALLED, its columns will be absent'}")

    if arguments.latency_only and arguments.work is None:
        sys.exit("compare_peers: --latency-only needs the --work of an earlier run")
    results = {}
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pare-peers-")))
        work.mkdir(parents=True, exist_ok=True)
        plan = comparison.Plan(
            contestants, arguments.rounds, arguments.batch, arguments.threads, arguments.zoo, data, work,
            arguments.latency_only,
        )  # fmt: skip
        facts = {
            "command": shlex.join(["benchmarks/compare_peers.py", *sys.argv[1:]]),
            "machine": environment.machine(),
            "versions": versions,
            "rounds": arguments.rounds,
        }
        for model in models:
            print(f"\n{model}", flush=True)
            results[model] = comparison.compare(networks.NETWORKS[model], plan)
            print(report.text(model, results[model]), flush=True)
            report.write(arguments.json, report.as_json(results, facts))
            report.write(arguments.markdown, report.markdown(results, facts))


if __name__ == "__main__":
    main()
