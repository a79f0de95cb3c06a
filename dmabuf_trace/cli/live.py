# SPDX-License-Identifier: Apache-2.0
"""The command that records, and the options of all that follow the running kernel."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dmabuf_trace import options
from dmabuf_trace.cli.app import app

RUNS_COMMANDS = {"allow_interspersed_args": False}
"""What follows the command's name belongs to it, with or without a ``--`` before it."""


def option(row: options.Option[Any]) -> Any:
    """The option of that row, as typer wants it."""
    return typer.Option(
        *row.flags, metavar=row.metavar or None, help=row.help, min=row.least, max=row.most
    )


Duration = Annotated[str | None, option(options.DURATION)]
Ring = Annotated[str, option(options.RING)]
MaxActive = Annotated[int, option(options.MAXACTIVE)]
Events = Annotated[str, option(options.EVENTS)]
LoaderName = Annotated[str, option(options.LOADER)]
Attach = Annotated[str, option(options.ATTACH)]
Pids = Annotated[list[int] | None, option(options.PIDS)]
Tables = Annotated[list[str] | None, option(options.TABLES)]
OnlyCommand = Annotated[bool, option(options.ONLY_COMMAND)]
Stacks = Annotated[str | None, option(options.STACKS)]
HoldersEvery = Annotated[str | None, option(options.HOLDERS_EVERY)]
Cycles = Annotated[int, option(options.CYCLES)]
Force = Annotated[bool, option(options.FORCE)]
Comm = Annotated[str, option(options.COMM)]
Exporter = Annotated[str, option(options.EXPORTER)]
MinSize = Annotated[str | None, option(options.MIN_SIZE)]
MaxSize = Annotated[str | None, option(options.MAX_SIZE)]
Command = Annotated[
    list[str] | None,
    typer.Argument(metavar=options.COMMAND_METAVAR, help=options.COMMAND_HELP),
]


@app.command(context_settings=RUNS_COMMANDS)
def record(
    command: Command = None,
    output: Annotated[str | None, option(options.OUTPUT)] = options.OUTPUT.default,
    duration: Duration = options.DURATION.default,
    ring: Ring = options.RING.default,
    maxactive: MaxActive = options.MAXACTIVE.default,
    events: Events = options.EVENTS.default,
    loader: LoaderName = options.LOADER.default,
    attach: Attach = options.ATTACH.default,
    table: Tables = options.TABLES.default,
    pid: Pids = options.PIDS.default,
    only_command: OnlyCommand = options.ONLY_COMMAND.default,
    comm: Comm = options.COMM.default,
    exporter: Exporter = options.EXPORTER.default,
    min_size: MinSize = options.MIN_SIZE.default,
    max_size: MaxSize = options.MAX_SIZE.default,
    stacks: Stacks = options.STACKS.default,
    holders_every: HoldersEvery = options.HOLDERS_EVERY.default,
    cycles: Cycles = options.CYCLES.default,
    force: Force = options.FORCE.default,
    steered: Annotated[
        bool,
        typer.Option("--steered", hidden=True, help="Requests on stdin, answers on stdout."),
    ] = False,
) -> None:
    """Record dma-buf events until CMD ends or Ctrl-C: of the whole system, unless filtered.

    A buffer that the filters match is watched from the first event on that a matching thread makes
    on it; from then on every event on it is recorded, whoever makes it.

    The exit status is CMD's, of several runs the first that is not 0; without CMD, 0. 2: bad usage
    or output; 4: this kernel can't be traced, or not by this user; 126, 127: CMD can't be executed,
    is not found.
    """
    from dmabuf_trace.notes import record_with_notes
    from dmabuf_trace.request import Request

    request = Request(
        tuple(command or ()),
        *(output, duration, ring, maxactive, events, loader, attach, table, pid, only_command),
        *(comm, exporter, min_size, max_size, stacks, holders_every, cycles, force, steered),
    )
    raise typer.Exit(record_with_notes(request.recording()).ending.status)
