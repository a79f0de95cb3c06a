# SPDX-License-Identifier: Apache-2.0
"""The command that writes a recording for other tools: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmabuf_trace.cli.app import app
from dmabuf_trace.cli.live import Force
from dmabuf_trace.cli.offline import File, InWindow, window_of
from dmabuf_trace.exports.formats import DEFAULTS, FORMATS, STDOUT, Request


@app.command()
def export(
    file: File,
    to: Annotated[str, typer.Option(metavar="FORMAT", help=", ".join(FORMATS))],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="A file; -: stdout.")
    ] = STDOUT,
    table: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of parquet, arrow, csv, jsonl: which table; all: each, to a folder. "
            f"[default: {DEFAULTS['table']}]",
        ),
    ] = "",
    by: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="Of folded: leaked-bytes, live-bytes, allocated-bytes, map-time. "
            f"[default: {DEFAULTS['by']}]",
        ),
    ] = "",
    ftrace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of perfetto: add an ftrace recording of the same run: text, by the clock mono.",
        ),
    ] = None,
    window: InWindow = "",
    force: Force = False,
) -> None:
    """Write a recording for other tools: time lines, flame graphs, tables.

    What was lost is in the output where the format has a place for it, and on stderr. perfetto,
    parquet and arrow need packages: pip install 'dmabuf-trace[perfetto,arrow]'.
    """
    from dmabuf_trace import memory
    from dmabuf_trace.exports.facts import shortcomings
    from dmabuf_trace.exports.formats import export as write
    from dmabuf_trace.render.text import printable
    from dmabuf_trace.stderr import note

    memory.prepare()
    request = Request(file, to, output, table, by, ftrace, window_of(window), force)
    last, notes = write(request)
    for line in (*shortcomings(last), *notes):
        note(printable(line))
