"""The figures as text tables, Markdown and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .row import Row

QUALITY = ["contestant", "accuracy %", "SQNR dB", "flips", "file KiB", "of float", "quantized in s"]


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return ""
    return "exact" if math.isinf(value) else f"{value:.{digits}f}"


def _quality(row: Row) -> list[str]:
    found = row.agreement
    flips = f"{found.flips} of {found.samples}" if found and found.flips is not None else ""
    ratio = row.weight_bytes / row.float_bytes if row.weight_bytes and row.float_bytes else None
    return [
        row.contestant,
        _number(found.accuracy if found else None, 2),
        _number(found.sqnr_db if found else None, 1),
        flips,
        _number(row.weight_bytes / 1024 if row.weight_bytes else None, 0),
        _number(ratio, 3),
        _number(row.quantize_seconds, 1),
    ]


def _latency(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Median / P99 in ms; what the driver measured of LibTorch eager becomes a row of its own."""
    keys = list(dict.fromkeys(key for row in rows for key in row.latency if "eager" not in key))
    body = []
    for row in rows:
        for suffix, label in (("", row.contestant), (", LibTorch eager", f"LibTorch eager beside {row.contestant}")):
            cells = [row.latency.get(key + suffix) for key in keys]
            if any(cells):
                body.append([label, *(_cell(latency) for latency in cells)])
    return ["contestant", *keys], body


def _cell(latency: Any) -> str:
    if latency is None:
        return ""
    p99 = latency.p99_ms
    return f"{latency.median_ms:.3g}" + (f" / {p99:.3g}" if p99 is not None else "")


def _markdown(head: list[str], body: Iterable[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(cells) + " |" for cells in body]


def _aligned(head: list[str], body: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [head, *body]]


def text(network: str, rows: list[Row]) -> str:
    """Tables of one network for a terminal."""
    present = [row for row in rows if row.absent is None]
    lines = [f"\n{network}", *_aligned(QUALITY, [_quality(row) for row in present])]
    head, body = _latency(present)
    if body:
        lines += ["", "latency, ms: median / P99", *_aligned(head, body)]
    lines += [f"absent: {row.contestant}: {row.absent}" for row in rows if row.absent is not None]
    return "\n".join(lines)


def markdown(results: dict[str, list[Row]], facts: dict[str, Any]) -> str:
    """The whole comparison as a page."""
    machine = facts["machine"]
    versions = ", ".join(f"{name} {version or 'absent'}" for name, version in facts["versions"].items())
    lines = [
        "# pare and its peers",
        "",
        f"`{facts['command']}`",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {' '.join(machine['instructions'])}.",
        f"Peers: {versions}. Same weights, images and calibration samples for all. SQNR and flips are against each",
        f"contestant's own float model. Latencies: median / P99 in ms over {facts['rounds']} interleaved rounds.",
    ]
    for network, rows in results.items():
        present = [row for row in rows if row.absent is None]
        lines += ["", f"## {network}", "", *_markdown(QUALITY, [_quality(row) for row in present])]
        head, body = _latency(present)
        if body:
            lines += ["", *_markdown(head, body)]
        absent = [f"- {row.contestant}: {row.absent}" for row in rows if row.absent is not None]
        lines += ["", "Absent:", "", *absent] if absent else []
    return "\n".join(lines) + "\n"


def as_json(results: dict[str, list[Row]], facts: dict[str, Any]) -> str:
    def record(row: Row) -> dict[str, Any]:
        found = row.agreement
        sqnr = found.sqnr_db if found else None
        return {
            "model": row.network,
            "contestant": row.contestant,
            "absent": row.absent,
            "accuracy": found.accuracy if found else None,
            "samples": found.samples if found else None,
            "sqnr_db": None if sqnr is None or math.isinf(sqnr) else sqnr,
            "flips": found.flips if found else None,
            "weight_bytes": row.weight_bytes,
            "float_bytes": row.float_bytes,
            "quantize_s": row.quantize_seconds,
            "latency": {
                key: {"median_ms": value.median_ms, "p99_ms": value.p99_ms} for key, value in row.latency.items()
            },
            "driver": row.driver,
        }

    rows = [record(row) for group in results.values() for row in group]
    return json.dumps({**facts, "rows": rows}, indent=1) + "\n"


def write(path: Path | None, content: str) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
