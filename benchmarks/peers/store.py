"""What a run leaves in its work folder, so that a later one can time it without building or judging anything again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .contestants import Artefact
from .measure import Agreement, Latency
from .row import Row


def _file(work: Path, network: str) -> Path:
    return work / f"{network}.json"


def checkpoint(work: Path, network: str, recipe: str) -> Path:
    """Where the driver leaves the model that a recipe made."""
    return work / f"{network}.{recipe}.pare"


def save(work: Path, network: str, rows: dict[str, Row], artefacts: dict[str, Artefact]) -> None:
    """Rows, and of the artefacts those that are files."""
    files = {
        name: {"handle": artefact.handle.name, "file_bytes": artefact.file_bytes, "seconds": artefact.seconds}
        for name, artefact in artefacts.items()
        if isinstance(artefact.handle, Path)
    }
    content = {"rows": [asdict(row) for row in rows.values()], "artefacts": files}
    _file(work, network).write_text(json.dumps(content, indent=1))


def load(work: Path, network: str) -> tuple[dict[str, Row], dict[str, Artefact]]:
    """@raises SystemExit where there is nothing of this network"""
    try:
        content = json.loads(_file(work, network).read_text())
    except FileNotFoundError:
        raise SystemExit(f"compare_peers: {work} has nothing of {network}: run without --latency-only first") from None
    rows = {record["contestant"]: _row(record) for record in content["rows"]}
    artefacts = {
        name: Artefact(work / found["handle"], found["file_bytes"], found["seconds"])
        for name, found in content["artefacts"].items()
    }
    return rows, artefacts


def _row(record: dict[str, Any]) -> Row:
    agreement = record.pop("agreement")
    latency = {key: Latency(**value) for key, value in record.pop("latency").items()}
    return Row(**record, agreement=Agreement(**agreement) if agreement else None, latency=latency)
