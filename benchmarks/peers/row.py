"""All that is known of one contestant on one network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .measure import Agreement, Latency


@dataclass
class Row:
    """`absent` says why there is nothing."""

    network: str
    contestant: str
    absent: str | None = None
    agreement: Agreement | None = None
    weight_bytes: int | None = None
    float_bytes: int | None = None
    quantize_seconds: float | None = None
    latency: dict[str, Latency] = field(default_factory=dict)
    driver: dict[str, Any] | None = None
