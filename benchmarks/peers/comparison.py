"""Runs one network through all contestants: accuracy first, then latencies in interleaved rounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import measure, networks, store
from .contestants import Artefact, Contestant
from .exported import ALL as CONTESTANTS
from .measure import Agreement, Latency
from .networks import Network, Prepared
from .pare_driver import DriverError, Zoo
from .row import Row

PARE = {"pare": "int8", "pare_float": "float", "pare_bf16": "bf16"}


@dataclass(frozen=True)
class Plan:
    """What to compare and how: contestants by name, rounds, batches and threads."""

    names: list[str]
    rounds: int
    batches: list[int]
    threads: list[int]
    executable: Path
    data: Path | None
    work: Path
    latency_only: bool = False


def configuration(batch: int, threads: int) -> str:
    return f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"


def compare(network: Network, plan: Plan) -> list[Row]:
    """One row for each contestant that suits the network, in the plan's order; what is known is kept in `plan.work`."""
    if plan.latency_only:
        rows, artefacts = store.load(plan.work, network.name)
    else:
        rows, artefacts = build_and_judge(network, plan)
        store.save(plan.work, network.name, rows, artefacts)
    chosen = {name: row for name, row in rows.items() if name in plan.names}
    peers = {name: CONTESTANTS[name] for name in artefacts if name in chosen}
    drivers = {name: Zoo(plan.executable, plan.data, PARE[name]) for name in chosen if name in PARE}
    for batch in plan.batches if plan.rounds else []:
        for threads in plan.threads:
            time_all(network, batch, threads, peers, artefacts, drivers, chosen, plan)
            store.save(plan.work, network.name, rows, artefacts)
    return list(rows.values())


def build_and_judge(network: Network, plan: Plan) -> tuple[dict[str, Row], dict[str, Artefact]]:
    prepared = networks.prepare(network, plan.data, plan.work)
    rows = {name: Row(network.name, name) for name in plan.names}
    peers = {name: CONTESTANTS[name] for name in plan.names if name in CONTESTANTS}
    for name, peer in list(peers.items()):
        if not peer.suits(prepared):
            del peers[name], rows[name]
    if not prepared.has_labels:
        drop_accuracy_only(peers, rows)
    artefacts = build_peers(prepared, peers, rows, plan)
    if prepared.has_labels:
        judge_peers(prepared, peers, artefacts, rows)
    for name in rows:
        if name in PARE:
            judge_pare(prepared, Zoo(plan.executable, plan.data, PARE[name]), rows[name], plan.work)
    return rows, artefacts


def drop_accuracy_only(peers: dict[str, Contestant], rows: dict[str, Row]) -> None:
    """Variants that differ in nothing but accuracy say nothing on random weights."""
    for name in ("onnxruntime_per_tensor", "openvino_none", "openvino_full"):
        peers.pop(name, None)
        rows.pop(name, None)


def build_peers(
    prepared: Prepared, peers: dict[str, Contestant], rows: dict[str, Row], plan: Plan
) -> dict[str, Artefact]:
    artefacts = {}
    for name, peer in peers.items():
        try:
            artefacts[name] = peer.build(prepared, plan.work)
        except ModuleNotFoundError as error:
            rows[name].absent = f"{error.name} is not installed"
        except Exception as error:  # a toolkit that fails on a network is a result, not the end of the run
            rows[name].absent = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        else:
            rows[name].weight_bytes = artefacts[name].file_bytes
            rows[name].quantize_seconds = artefacts[name].seconds
            print(f"  {name}: built", flush=True)
    for name, row in rows.items():
        if name in artefacts and peers[name].baseline in artefacts:
            row.float_bytes = artefacts[peers[name].baseline].file_bytes
    return artefacts


def judge_peers(
    prepared: Prepared, peers: dict[str, Contestant], artefacts: dict[str, Artefact], rows: dict[str, Row]
) -> None:
    references: dict[str, np.ndarray] = {}

    def outputs(name: str) -> np.ndarray:
        artefact = artefacts[name] if name in artefacts else CONTESTANTS[name].build(prepared, prepared.onnx.parent)
        return measure.logits(CONTESTANTS[name].runner(artefact, 1, None), prepared.samples.test)

    for name, peer in peers.items():
        if name not in artefacts:
            continue
        if peer.baseline not in references:
            references[peer.baseline] = outputs(peer.baseline)
        own = references[name] if name == peer.baseline else outputs(name)
        reference = None if name == peer.baseline else references[peer.baseline]
        rows[name].agreement = measure.agreement(own, prepared.samples.labels, reference)
        print(f"  {name}: {rows[name].agreement.accuracy:.2f} %", flush=True)


def judge_pare(prepared: Prepared, zoo: Zoo, row: Row, work: Path) -> None:
    try:
        found = zoo.accuracy(prepared, store.checkpoint(work, prepared.network.name, zoo.recipe))
    except DriverError as error:
        row.absent = str(error)
        return
    row.driver = found
    optimized = found["optimized"]
    if prepared.has_labels:
        row.agreement = Agreement(optimized["metric"], found["samples"], found["sqnr_db"], found["flips"])
    row.weight_bytes, row.float_bytes = optimized["weight_bytes"], found["float"]["weight_bytes"]
    row.quantize_seconds = found["capture_s"] + found["optimize_s"]


def time_all(
    network: Network,
    batch: int,
    threads: int,
    peers: dict[str, Contestant],
    artefacts: dict[str, Artefact],
    drivers: dict[str, Zoo],
    rows: dict[str, Row],
    plan: Plan,
) -> None:
    """Every round gives each contestant one turn, so that whatever else the machine does falls on all of them."""
    key = configuration(batch, threads)
    print(f"  {key}: {plan.rounds} rounds", flush=True)
    feed = networks.random_feed(network, batch)
    runners = {name: peer.runner(artefacts[name], threads, feed) for name, peer in peers.items()}
    for row in rows.values():  # measured again: what was there before goes
        for label in (key, f"{key}, LibTorch eager"):
            row.latency.pop(label, None)
    for _ in range(plan.rounds):
        for name, runner in runners.items():
            latency = rows[name].latency.setdefault(key, Latency())
            latency.rounds.append(measure.run_slice(runner, feed))
        for name, zoo in drivers.items():
            if rows[name].absent is None:
                model = store.checkpoint(plan.work, network.name, zoo.recipe)
                time_pare(network, zoo, model, batch, threads, rows[name], key)


def time_pare(network: Network, zoo: Zoo, model: Path, batch: int, threads: int, row: Row, key: str) -> None:
    try:
        found = zoo.latency(network, model, batch, threads)
    except DriverError as error:
        row.absent = str(error)
        return
    for label, side in ((key, "optimized"), (f"{key}, LibTorch eager", "float")):
        latency = row.latency.setdefault(label, Latency())
        latency.rounds.append([found[side]["latency_ms"]])
        if "latency_p99_ms" in found[side]:
            latency.p99s.append(found[side]["latency_p99_ms"])


def contestant_names() -> list[str]:
    return [*CONTESTANTS, *PARE]

