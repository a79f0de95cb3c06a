# SPDX-License-Identifier: Apache-2.0
"""The command that looks at the running system without recording: snapshot."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from dmabuf_trace.cli.app import app
from dmabuf_trace.cli.offline import TERMINAL_ROWS
from dmabuf_trace.errors import InputError
from dmabuf_trace.units import count_text

BY: Final = ("exporter", "process", "buffer")


@app.command()
def snapshot(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, every row.")] = False,
    by: Annotated[
        str,
        typer.Option(
            metavar="WHAT", help="Only one table: exporter, process, or buffer with all holders."
        ),
    ] = "",
    with_bufinfo: Annotated[
        bool,
        typer.Option(
            "--bufinfo",
            help="Also read debugfs: every live buffer on any kernel, and attached devices; but "
            "it holds locks that exports and releases wait for, and is given up after 2 s.",
        ),
    ] = False,
) -> None:
    """Who holds which buffer now: a grid of buffers and processes, and totals. Records nothing.

    A cell tells fds (f), VMAs (m), and fds in the queue of a socket that the process has open (q).
    RSS counts a buffer in full for each process that holds it, PSS shares it between them. Exit
    status 0, also where not everything may be seen, which is said; 4: --bufinfo can't be read.
    """
    from dmabuf_trace import bufinfo
    from dmabuf_trace import snapshot as looks
    from dmabuf_trace.accounting import account
    from dmabuf_trace.stderr import note

    if by not in ("", *BY):
        raise InputError(f"--by {by} is none of them", f"there are: {', '.join(BY)}")
    with looks.Looker() as looker:
        taken = looker.take("now")
        if looker.without:
            note(f"without iterators: {looker.without}")
    if with_bufinfo:
        listing = bufinfo.read()
        found = account(looks.with_all(taken, listing.buffers), listing.devices, listing.totals)
    else:
        found = account(taken)
    if found.unreadable:
        processes = count_text(found.unreadable, "process", "processes")
        note(f"{processes} could not be looked into and may hold more: run it with sudo")
    if as_json:
        from dmabuf_trace.render.machine import account_json

        print(account_json(found))
    else:
        from dmabuf_trace.render.account import account_parts
        from dmabuf_trace.render.table import write

        limit = TERMINAL_ROWS if sys.stdout.isatty() else None
        write(account_parts(found, limit, by), sys.stdout)
