"""Accuracy against the contestant's own float model, and latencies by interleaved rounds."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field

import numpy as np

from .contestants import Runner
from .samples import Feed, unpadded

SLICE_SECONDS = 0.4
FEWEST_CALLS = 3
MOST_CALLS = 400
SETTLE_SECONDS = 0.05


@dataclass(frozen=True)
class Agreement:
    """Top-1 accuracy in percent; against float: logits SQNR in dB and changed predictions. None where it is float."""

    accuracy: float
    samples: int
    sqnr_db: float | None = None
    flips: int | None = None


def logits(runner: Runner, test: Feed, batch: int = 16) -> np.ndarray:
    """Outputs for all samples: pictures batch after batch (the last one may be smaller), sentences one by one."""
    if "mask" in test:
        feeds = unpadded(test)
    else:
        count = len(next(iter(test.values())))
        feeds = [{name: values[i : i + batch] for name, values in test.items()} for i in range(0, count, batch)]
    parts = [runner(feed) for feed in feeds]
    return np.concatenate(parts).astype(np.float64)


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """10 log10(sum y^2 / sum (y - y')^2) over all logits of all samples."""
    noise = float(np.square(reference - other).sum())
    return math.inf if noise == 0 else 10 * math.log10(float(np.square(reference).sum()) / noise)


def agreement(outputs: np.ndarray, labels: np.ndarray, reference: np.ndarray | None) -> Agreement:
    chosen = outputs.argmax(1)
    accuracy = 100 * float((chosen == labels).mean())
    if reference is None:
        return Agreement(accuracy, len(labels))
    flips = int((chosen != reference.argmax(1)).sum())
    return Agreement(accuracy, len(labels), sqnr_db(reference, outputs), flips)


@dataclass
class Latency:
    """Milliseconds per call of one contestant at one batch and number of threads, a list for each round."""

    rounds: list[list[float]] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """Median of the rounds' medians, so that a disturbed round weighs no more than a quiet one."""
        return statistics.median(statistics.median(calls) for calls in self.rounds)

    @property
    def p99_ms(self) -> float | None:
        """99th percentile of all calls; of a driver that reports one value a run, the median of its own percentiles."""
        if self.p99s:
            return statistics.median(self.p99s)
        calls = [call for calls in self.rounds for call in calls]
        return float(np.percentile(calls, 99)) if len(calls) > len(self.rounds) else None


def run_slice(runner: Runner, feed: Feed) -> list[float]:
    """One contestant's turn of a round: milliseconds of calls for SLICE_SECONDS, the first ones not counted."""
    time.sleep(SETTLE_SECONDS)  # the previous contestant's threads stop spinning
    for _ in range(2):
        runner(feed)
    calls: list[float] = []
    end = time.perf_counter() + SLICE_SECONDS
    while len(calls) < FEWEST_CALLS or (time.perf_counter() < end and len(calls) < MOST_CALLS):
        start = time.perf_counter()
        runner(feed)
        calls.append(1e3 * (time.perf_counter() - start))
    return calls
