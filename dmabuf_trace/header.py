# SPDX-License-Identifier: Apache-2.0
"""The header of a recording, as it may be: anybody can have written it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Header = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe of the recording: what it feeds and whether it was attached."""

    kind: str
    symbol: str
    attached: bool
    reason: str
    without: str


def probes(header: Header) -> tuple[Probe, ...]:
    """The probes that it lists."""
    listed = header.get("probes")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    return tuple(
        Probe(
            kind=str(row.get("kind", "")),
            symbol=str(row.get("symbol", "")),
            attached=bool(row.get("attached", True)),
            reason=str(row.get("reason", "")),
            without=str(row.get("without", "")),
        )
        for row in rows
    )


def missing(header: Header) -> dict[str, str]:
    """Event kinds that were not observed, or not all of them, and why."""
    return {probe.kind: probe.reason for probe in probes(header) if not probe.attached}


def filters(header: Header) -> tuple[str, ...]:
    """The options that chose what was recorded; none: everything was."""
    options = header.get("filters")
    return tuple(map(str, options)) if isinstance(options, list) else ()


def start(header: Header) -> int | None:
    """When the recording began, ns of CLOCK_MONOTONIC; None: it does not tell."""
    told = header.get("start")
    began = told.get("monotonic_ns") if isinstance(told, dict) else None
    return began if isinstance(began, int) else None
