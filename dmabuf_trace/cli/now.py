# SPDX-License-Identifier: Apache-2.0
"""The command that looks at the running system without recording: snapshot."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dmabuf_trace.cli.app import app
from dmabuf_trace.cli.offline import TERMINAL_ROWS
from dmabuf_trace.units import count_text


@app.command()
def snapshot(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, every row.")] = False,
    with_bufinfo: Annotated[
        bool,
        typer.Option(
            "--bufinfo",
            help="Also read debugfs: lists every live buffer on any kernel, but holds the locks "
            "that exports and releases wait for meanwhile.",
        ),
    ] = False,
) -> None:
    """Who holds which buffer now: per process and per buffer. Records nothing.

    RSS counts a buffer in full for each process that holds it, PSS shares it between them. Exit
    status 0, also where not everything may be seen, which is said; 4: --bufinfo can't be read.
    """
    from dmabuf_trace import snapshot as looks
    from dmabuf_trace.accounting import account
    from dmabuf_trace.notes import note

    with looks.Looker() as looker:
        found = account(looker.take("now", with_bufinfo=with_bufinfo))
        if looker.without:
            note(f"without iterators: {looker.without}")
    if found.unreadable:
        processes = count_text(found.unreadable, "process", "processes")
        note(f"{processes} could not be looked into and may hold more: run it with sudo")
    if as_json:
        from dmabuf_trace.render.machine import account_json

        print(account_json(found))
    else:
        from dmabuf_trace.render.account import account_parts
        from dmabuf_trace.render.table import write

        write(account_parts(found, TERMINAL_ROWS if sys.stdout.isatty() else None), sys.stdout)
