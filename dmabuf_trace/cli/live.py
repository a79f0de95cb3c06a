# SPDX-License-Identifier: Apache-2.0
"""Commands that follow the running kernel: record, trace."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dmabuf_trace.cli.app import app
from dmabuf_trace.cli.sizes import ring_bytes, table_sizes
from dmabuf_trace.errors import InputError
from dmabuf_trace.units import parse_duration, parse_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dmabuf_trace.capture import Capture, CaptureOptions
    from dmabuf_trace.filters import Filters

NS_PER_S = 1_000_000_000
ALL = "all"
AUTO = "auto"
SHORTEST_PERIOD = 0.1
RUNS_COMMANDS = {"allow_interspersed_args": False}
"""What follows the command's name belongs to it, with or without a ``--`` before it."""

Duration = Annotated[
    str | None, typer.Option(metavar="TIME", help="Stop after this long (500ms, 10s, 2m).")
]
Ring = Annotated[
    str, typer.Option(metavar="SIZE", help="Event ring; a power of two. Larger: fewer losses.")
]
MaxActive = Annotated[
    int,
    typer.Option(
        min=1, max=4096, help="Calls that may be under way at once, per function with a kprobe."
    ),
]
Events = Annotated[
    str,
    typer.Option(
        metavar="GROUPS",
        help="What to watch, separated by commas: buffers (always on), fds, devices, cpu, "
        "waits, operations.",
    ),
]
LoaderName = Annotated[
    str,
    typer.Option(
        "--loader",
        metavar="LOADER",
        help="core: prebuilt programs; bcc: compiled here, needs kernel headers; auto: whichever.",
    ),
]
Attach = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help="kprobe, multi, fentry; auto: whatever loses nothing, then whatever costs least.",
    ),
]
Pids = Annotated[
    list[int] | None,
    typer.Option("--pid", metavar="PID", help="Only this process and its children; repeatable."),
]
Tables = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        metavar="NAME=SIZE",
        help="Room in the kernel, where a report says that some was missing: inflight (calls under "
        "way), stacks (different ones), names (bytes, a power of two). May be repeated.",
    ),
]
OnlyCommand = Annotated[
    bool, typer.Option("--only-command", help="Only CMD and its children, not the whole system.")
]
Comm = Annotated[
    str, typer.Option(metavar="NAME", help="Only threads of this name (of 15 bytes at most).")
]
Exporter = Annotated[str, typer.Option(metavar="NAME", help="Only buffers of this exporter.")]
MinSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Only buffers at least this large (64K, 8M).")
]
MaxSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Only buffers at most this large.")
]
Command = Annotated[
    list[str] | None, typer.Argument(metavar="[-- CMD...]", help="Run this, and stop when it ends.")
]


def note(text: str) -> None:
    """One line on stderr."""
    print(f"dmabuf-trace: {text}", file=sys.stderr, flush=True)


def _filters(
    pids: list[int] | None,
    only_command: bool,
    command: list[str] | None,
    comm: str,
    exporter: str,
    min_size: str | None,
    max_size: str | None,
) -> Filters:
    from dmabuf_trace.filters import NO_LIMIT, Filters, check_pid

    if only_command and not command:
        raise InputError("--only-command without a command", "add: -- CMD...")
    for pid in pids or ():
        check_pid(pid)
    return Filters(
        tuple(dict.fromkeys(pids or ())),
        only_command,
        comm,
        exporter,
        parse_size(min_size) if min_size else 0,
        parse_size(max_size) if max_size else NO_LIMIT,
    )


STACKS: Final = {"kernel": (1, 0), "user": (0, 1), "both": (1, 1), "none": (0, 0)}
"""Which stacks are taken of all events that can have one: of the kernel, of the user."""


def _stacks(wanted: str | None) -> tuple[int, int]:
    """Bits of the kinds that carry kernel stacks, and user stacks."""
    from dmabuf_trace import schema

    if wanted is None:
        return schema.STACKED, 0
    if wanted not in STACKS:
        raise InputError(f"--stacks {wanted} is none of them", f"there are: {', '.join(STACKS)}")
    kernel, user = STACKS[wanted]
    return kernel * schema.STACKABLE, user * schema.STACKABLE


def _every(period: str | None) -> float | None:
    """Seconds between looks at the holders."""
    seconds = _seconds(period)
    if seconds is not None and seconds < SHORTEST_PERIOD:
        raise InputError(f"--holders-every {period} is too short", f"from {SHORTEST_PERIOD}s on")
    return seconds


def _options(
    ring: str,
    maxactive: int,
    events: str,
    loader: str,
    attach: str,
    filters: Filters,
    stacks: str | None,
    tables: list[str] | None,
) -> CaptureOptions:
    from dmabuf_trace.capture import CaptureOptions
    from dmabuf_trace.loader.interface import LOADERS, MODES
    from dmabuf_trace.probes import GROUPS

    size = ring_bytes("--ring", ring)
    known = [group.name for group in GROUPS]
    groups = known if events == ALL else [name.strip() for name in events.split(",")]
    for name in groups:
        if name not in known:
            raise InputError(f"no event group {name!r}", f"there are: {', '.join(known)}, {ALL}")
    if loader not in LOADERS:
        raise InputError(f"no loader {loader!r}", f"there are: {', '.join(LOADERS)}")
    if attach not in MODES:
        raise InputError(f"no attach mode {attach!r}", f"there are: {', '.join(MODES)}")
    return CaptureOptions(
        *(size, maxactive, tuple(groups), loader, attach, filters, *_stacks(stacks)),
        tables=table_sizes(tables),
    )


def _seconds(duration: str | None) -> float | None:
    return None if duration is None else parse_duration(duration) / NS_PER_S


def _missing(capture: Capture) -> None:
    for attached in capture.loader.attached:
        if attached.reason:
            note(f"not observed: {attached.reason}; {attached.probe.without}")
        elif attached.instead:
            note(f"{attached.symbol} is attached by {attached.way}: {attached.instead}")


def _lost(losses: NDArray[np.uint64]) -> int:
    """Say what was lost, a line a cause; the number of whole events."""
    from dmabuf_trace import schema

    for cause in schema.CAUSES:
        counts = {
            schema.KIND_NAMES[kind]: int(losses[kind, cause.id]) for kind in schema.KIND_NAMES
        }
        parts = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count)
        if parts:
            note(f"LOST: {cause.doc} ({parts})" + (f"; {cause.hint}" if cause.hint else ""))
    return schema.lost_events(losses)


@app.command(context_settings=RUNS_COMMANDS)
def record(
    command: Command = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Default: dmabuf-DATE-TIME.dbt."),
    ] = None,
    duration: Duration = None,
    ring: Ring = "8M",
    maxactive: MaxActive = 1024,
    events: Events = ALL,
    loader: LoaderName = AUTO,
    attach: Attach = AUTO,
    table: Tables = None,
    pid: Pids = None,
    only_command: OnlyCommand = False,
    comm: Comm = "",
    exporter: Exporter = "",
    min_size: MinSize = None,
    max_size: MaxSize = None,
    stacks: Annotated[
        str | None,
        typer.Option(
            metavar="WHICH",
            help="Stacks of all calls: kernel, user, both, none. Without it: kernel stacks of "
            "export and attach.",
        ),
    ] = None,
    holders_every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Also write down who holds what every so often (1s)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Record dma-buf events until CMD ends or Ctrl-C: of the whole system, unless filtered.

    A buffer that the filters match is watched from the first event on that a matching thread makes
    on it; from then on every event on it is recorded, whoever makes it.

    The exit status is CMD's; without CMD, 0. 2: bad usage or output; 4: this kernel can't be
    traced, or not by this user; 126, 127: CMD can't be executed, is not found.
    """
    from dmabuf_trace.recorder import RecordOptions
    from dmabuf_trace.recorder import record as run

    path = output or Path(time.strftime("dmabuf-%Y%m%d-%H%M%S.dbt"))
    filters = _filters(pid, only_command, command, comm, exporter, min_size, max_size)
    options = RecordOptions(
        path,
        tuple(command or ()),
        _seconds(duration),
        force,
        _options(ring, maxactive, events, loader, attach, filters, stacks, table),
        _every(holders_every),
    )

    def attached(capture: Capture) -> None:
        _missing(capture)
        if not command:
            note("recording, Ctrl-C to stop")

    outcome = run(options, attached)
    lost = _lost(outcome.losses)
    file = outcome.output
    note(
        f"{outcome.events} events in {outcome.seconds:.1f} s, {lost} lost, "
        f"{outcome.size} bytes in {file}"
    )
    if file != path:
        note(f"{path} was replaced by another file meanwhile")
    if outcome.ending.reason != "command ended":
        note(f"ended by {outcome.ending.reason}")
    if command and outcome.ending.status:
        note(f"{command[0]} ended with status {outcome.ending.status}")
    note(f"next: dmabuf-trace report {file}")
    raise typer.Exit(outcome.ending.status)


@app.command(context_settings=RUNS_COMMANDS)
def trace(
    command: Command = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    duration: Duration = None,
    ring: Ring = "8M",
    maxactive: MaxActive = 1024,
    events: Events = ALL,
    loader: LoaderName = AUTO,
    attach: Attach = AUTO,
    table: Tables = None,
    pid: Pids = None,
    only_command: OnlyCommand = False,
    comm: Comm = "",
    exporter: Exporter = "",
    min_size: MinSize = None,
    max_size: MaxSize = None,
) -> None:
    """Print a line per event as it happens, until CMD ends or Ctrl-C.

    Events go to stdout, notes to stderr. The exit status is CMD's; without CMD, 0.
    """
    from dmabuf_trace import snapshot
    from dmabuf_trace.capture import Batch, Capture
    from dmabuf_trace.names import Names
    from dmabuf_trace.render.line import event_json, format_event
    from dmabuf_trace.session import Follower, find_command, follow, signals_waited_for

    names = Names()
    arguments = tuple(command or ())
    find_command(arguments)

    def show(batch: Batch) -> None:
        names.feed(batch.names)
        names.feed_cgroups(batch.cgroups)
        names.feed_events(batch.events)
        for event in batch.events:
            if as_json:
                print(json.dumps(event_json(event, names)))
            else:
                print(format_event(event, names))
        sys.stdout.flush()

    filters = _filters(pid, only_command, command, comm, exporter, min_size, max_size)
    options = _options(ring, maxactive, events, loader, attach, filters, None, table)
    with Capture(options) as capture, signals_waited_for():
        _missing(capture)
        with snapshot.Looker() as looker:
            for found in capture.watch.begin(looker.take("start")).buffers:
                names.remember(found.buffer, names.intern_exporter(found.exporter))
            capture.know_tables(looker.tables)
        if not command:
            note("tracing, Ctrl-C to stop")
        follower = Follower(capture, show)
        ending = follow(follower, arguments, _seconds(duration))
        capture.detach()
        follower.finish()
    lost = _lost(follower.losses)
    note(f"{follower.events} events, {lost} lost")
    raise typer.Exit(ending.status)
