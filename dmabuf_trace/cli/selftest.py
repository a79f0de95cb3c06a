# SPDX-License-Identifier: Apache-2.0
"""The self-test of the gate: known leaks are made on this kernel, recorded, and must be found."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmabuf_trace import progress
from dmabuf_trace.errors import EXIT_FINDINGS, EXIT_OK, EXIT_UNTRACEABLE, UntraceableError

if TYPE_CHECKING:
    from dmabuf_trace.control import Report
    from dmabuf_trace.proof import Proof
    from dmabuf_trace.request import Request


def prove_file(file: Path) -> Proof:
    """What a recording of ``python3 -m dmabuf_trace.control`` shows, made wherever."""
    from dmabuf_trace import proof

    return proof.prove(proof.read(file), None)


def prove_here(request: Request) -> Proof:
    """Record known leaks on this kernel as asked for, and end them; nothing is left.

    Raises:
        UntraceableError: this kernel can't be traced, or has no exporter that works.
    """
    from dmabuf_trace import proof
    from dmabuf_trace.control import Report
    from dmabuf_trace.notes import record_with_notes

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "control.json"
        # -P: what lies in the current directory is none of ours
        command = (sys.executable, "-P", "-m", "dmabuf_trace.control", "--report", str(written))
        try:
            outcome = record_with_notes(replace(request, command=command).recording())
        finally:
            report = Report((), {})
            with suppress(FileNotFoundError, ValueError):
                report = Report.from_json(written.read_text())
            left = list(_ended(report))
    status = outcome.ending.status
    if status == EXIT_UNTRACEABLE:
        reasons = "; ".join(dict.fromkeys(report.without.values()))
        raise UntraceableError(
            f"no exporter of dma-bufs works here, so nothing can be leaked: {reasons}",
            "modprobe vgem, or udmabuf?",
        )
    if status:
        left.append(f"the workload of known leaks ended with status {status}")
    proved = proof.prove(proof.read(outcome.output), report)
    return replace(proved, faults=(*proved.faults, *left))


def _ended(report: Report) -> Iterator[str]:
    """End what holds the buffers; what is left all the same."""
    from dmabuf_trace import control, snapshot

    for each in control.end(report):
        yield f"process {each.pid}, which leaks by {each.shape}, did not end"
    if report.planted:
        there = {found.buffer for found in snapshot.take("end").buffers}
        for each in report.planted:
            if each.inode in there:
                yield f"buffer {each.inode}, of shape {each.shape}, is still there"


def tell(proof: Proof, *, as_json: bool) -> int:
    """Print it; the exit status."""
    progress.over()
    if as_json:
        document = {
            "works": proof.works,
            "planted": [asdict(row) for row in proof.rows],
            "not_planted": dict(proof.without),
            "faults": list(proof.faults),
        }
        print(json.dumps(document, indent=2))
    else:
        from dmabuf_trace.render.table import line, section, write

        verdict = "works" if proof.works else "does NOT work"
        parts = [*section(proof.table)]
        parts += [line(f"  not planted: {row[0]} ({row[1]})") for row in proof.without.items()]
        parts += [line(f"! {fault}", "yellow") for fault in proof.faults]
        write([*parts, line(f"the gate {verdict} here", "bold")], sys.stdout)
    return EXIT_OK if proof.works else EXIT_FINDINGS
