# SPDX-License-Identifier: Apache-2.0
"""Commands that print a line per event: trace, of the running kernel; events, of a recording."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from dmabuf_trace import options, progress
from dmabuf_trace.cli import live
from dmabuf_trace.cli.app import app
from dmabuf_trace.cli.offline import File, InWindow, window_of
from dmabuf_trace.units import parse_duration

if TYPE_CHECKING:
    from dmabuf_trace.lines import Wanted

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--event", metavar="KIND", help="Only events of this kind (map,unmap); repeatable."
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="Only events on this device.")]
Buffer = Annotated[
    str,
    typer.Option(
        metavar="BUFFER", help="Only events on this buffer: inode number, or name once it has one."
    ),
]
MinDur = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only calls that took so long (500us, 20ms).")
]
Errors = Annotated[bool, typer.Option("--errors", help="Only calls that failed.")]
KernelStacks = Annotated[
    bool, typer.Option("-k", "--kernel-stacks", help="Kernel stacks, below the lines.")
]
UserStacks = Annotated[
    bool, typer.Option("-u", "--user-stacks", help="User stacks, below the lines.")
]


def _wanted(
    kinds: list[str] | None, device: str, buffer: str, min_dur: str | None, errors: bool
) -> Wanted:
    from dmabuf_trace import lines

    least = parse_duration(min_dur) if min_dur else 0
    return lines.Wanted(lines.kinds(kinds or ()), device, buffer, least, errors)


@app.command(context_settings=live.RUNS_COMMANDS)
def trace(
    command: live.Command = None,
    as_json: AsJson = False,
    event: Kinds = None,
    device: Device = "",
    buffer: Buffer = "",
    min_dur: MinDur = None,
    errors: Errors = False,
    kernel_stacks: KernelStacks = False,
    user_stacks: UserStacks = False,
    duration: live.Duration = options.DURATION.default,
    ring: live.Ring = options.RING.default,
    maxactive: live.MaxActive = options.MAXACTIVE.default,
    events: live.Events = options.EVENTS.default,
    loader: live.LoaderName = options.LOADER.default,
    attach: live.Attach = options.ATTACH.default,
    table: live.Tables = options.TABLES.default,
    pid: live.Pids = options.PIDS.default,
    only_command: live.OnlyCommand = options.ONLY_COMMAND.default,
    comm: live.Comm = options.COMM.default,
    exporter: live.Exporter = options.EXPORTER.default,
    min_size: live.MinSize = options.MIN_SIZE.default,
    max_size: live.MaxSize = options.MAX_SIZE.default,
) -> None:
    """Print a line per event as it happens, until CMD ends or Ctrl-C.

    Events go to stdout, notes to stderr. Times are seconds of CLOCK_MONOTONIC. A reader that is too
    slow holds nothing up: 262,144 events wait for it, beyond that the oldest are left out, which is
    said. The exit status is CMD's; without CMD, 0; 141 where the reader went away.
    """
    from dmabuf_trace.cli.following import follow_lines
    from dmabuf_trace.request import Request, stacks_of

    request = Request(
        *(tuple(command or ()), None, duration, ring, maxactive, events, loader, attach, table),
        *(pid, only_command, comm, exporter, min_size, max_size),
        stacks=stacks_of(kernel=kernel_stacks, user=user_stacks),
    )
    wanted = _wanted(event, device, buffer, min_dur, errors)
    raise typer.Exit(follow_lines(request, wanted, as_json=as_json))


@app.command()
def events(
    file: File,
    as_json: AsJson = False,
    event: Kinds = None,
    device: Device = "",
    buffer: Buffer = "",
    min_dur: MinDur = None,
    errors: Errors = False,
    kernel_stacks: KernelStacks = False,
    user_stacks: UserStacks = False,
    pid: Annotated[
        list[int] | None,
        typer.Option(metavar="PID", help="Only what this process did; repeatable."),
    ] = None,
    comm: Annotated[
        str, typer.Option(metavar="NAME", help="Only what threads of this name did.")
    ] = "",
    exporter: live.Exporter = "",
    window: InWindow = "",
) -> None:
    """Print a recording's events, a line each: the lines of trace, times since it began."""
    from dmabuf_trace.lines import Stacks
    from dmabuf_trace.render.line import form_for
    from dmabuf_trace.render.text import printable
    from dmabuf_trace.replay import Replay
    from dmabuf_trace.stderr import note, note_lost

    wanted = replace(
        _wanted(event, device, buffer, min_dur, errors),
        pids=tuple(pid or ()),
        comm=comm,
        exporter=exporter,
    )
    with Replay(file, wanted, window_of(window)) as replay:
        stacks = Stacks(
            replay.stacks.get if kernel_stacks else None,
            replay.user_stacks.get if user_stacks else None,
        )
        form = form_for(sys.stdout, as_json=as_json, origin=replay.start)
        sys.stdout.write(form.head())
        is_file = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
        for lines in replay:
            if not is_file:  # who sees the lines sees how far it has come
                progress.over()
            sys.stdout.writelines(form.line(seen, lines.names, stacks) for seen in lines)
        sys.stdout.flush()
    progress.over()
    note_lost(replay.losses)
    for text in replay.doubts():
        note(printable(text))
    for is_asked, found, which in (
        (kernel_stacks, replay.stacks, "kernel"),
        (user_stacks, replay.user_stacks, "user"),
    ):
        if is_asked and not found:
            note(f"it has no {which} stacks: they are there after record --stacks {which}")
