# SPDX-License-Identifier: Apache-2.0
"""The self-test of the gate: known leaks are made on this kernel, and must be found."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmabuf_trace.cli import live
from dmabuf_trace.cli.app import app
from dmabuf_trace.errors import (
    EXIT_FINDINGS,
    EXIT_OK,
    EXIT_SKIPPED,
    EXIT_UNTRACEABLE,
    UntraceableError,
)

if TYPE_CHECKING:
    from dmabuf_trace.capture import Capture, CaptureOptions
    from dmabuf_trace.control import Report
    from dmabuf_trace.proof import Proof


def prove_file(file: Path) -> Proof:
    """What a recording of ``python3 -m dmabuf_trace.control`` shows, made wherever."""
    from dmabuf_trace import proof

    return proof.prove(proof.read(file), None)


def prove_here(capture: CaptureOptions, attached: Callable[[Capture], None]) -> Proof:
    """Record known leaks on this kernel, and end them; nothing is left.

    Raises:
        UntraceableError: this kernel can't be traced, or has no exporter that works.
    """
    from dmabuf_trace import proof
    from dmabuf_trace.control import Report
    from dmabuf_trace.recorder import RecordOptions, record

    with tempfile.TemporaryDirectory(prefix="dmabuf-trace-") as folder:
        recording, written = Path(folder) / "control.dbt", Path(folder) / "control.json"
        # -P: what lies in the current directory is none of ours
        command = (sys.executable, "-P", "-m", "dmabuf_trace.control", "--report", str(written))
        left: list[str] = []
        try:
            outcome = record(RecordOptions(recording, command, capture=capture), attached)
        finally:
            report = Report((), {})
            with suppress(FileNotFoundError):
                report = Report.from_json(written.read_text())
            left += _ended(report)
        status = outcome.ending.status
        if status == EXIT_UNTRACEABLE:
            reasons = "; ".join(dict.fromkeys(report.without.values()))
            raise UntraceableError(
                f"no exporter of dma-bufs works here, so nothing can be leaked: {reasons}",
                "modprobe vgem, or udmabuf?",
            )
        if status:
            left.append(f"the workload of known leaks ended with status {status}")
        proved = proof.prove(proof.read(recording), report)
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


def tell(proof: Proof, as_json: bool) -> int:
    """Print it; the exit status."""
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

        write(section(proof.table), sys.stdout)
        for shape, why in proof.without.items():
            write([line(f"not planted: {shape} ({why})")], sys.stdout)
        for fault in proof.faults:
            write([line(f"! {fault}", "yellow")], sys.stdout)
        verdict = "works" if proof.works else "does NOT work"
        write([line(""), line(f"the gate {verdict} here", "bold")], sys.stdout)
    return EXIT_OK if proof.works else EXIT_FINDINGS


@app.command("self-test")
def self_test(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]")] = None,
    events: live.Events = live.ALL,
    loader: live.LoaderName = live.AUTO,
    attach: live.Attach = live.AUTO,
    exporter: live.Exporter = "",
    skip_untraceable: Annotated[bool, typer.Option("--skip-untraceable")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Make known leaks on this kernel, and fail if they are not found.

    Exit status 0: the gate works here; 1: it does not; 4: this kernel can't be traced, or has no
    exporter that works.
    """
    if file:
        raise typer.Exit(tell(prove_file(file), as_json))
    filters = live._filters(None, False, None, "", exporter, None, None)
    options = live._options("8M", 1024, events, loader, attach, filters, None, None)
    try:
        proof = prove_here(options, live._missing)
    except UntraceableError:
        if skip_untraceable:
            raise typer.Exit(EXIT_SKIPPED) from None
        raise
    raise typer.Exit(tell(proof, as_json))
