# SPDX-License-Identifier: Apache-2.0
"""Commands that need the running kernel: doctor, record, trace."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmabuf_trace.cli.app import app
from dmabuf_trace.errors import EXIT_OK, EXIT_UNTRACEABLE, InputError
from dmabuf_trace.units import parse_duration, parse_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dmabuf_trace.capture import Capture, CaptureOptions

NS_PER_S = 1_000_000_000
ALL = "all"
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
    typer.Option(min=1, max=4096, help="Calls that may be under way at once, per timed function."),
]
Events = Annotated[
    str,
    typer.Option(
        metavar="GROUPS",
        help="What to watch, separated by commas: buffers (always on), fds, devices, cpu.",
    ),
]
Command = Annotated[
    list[str] | None, typer.Argument(metavar="[-- CMD...]", help="Run this, and stop when it ends.")
]


def note(text: str) -> None:
    """One line on stderr."""
    print(f"dmabuf-trace: {text}", file=sys.stderr, flush=True)


def _options(ring: str, maxactive: int, events: str) -> CaptureOptions:
    from dmabuf_trace.capture import CaptureOptions
    from dmabuf_trace.probes import GROUPS

    size = parse_size(ring)
    page = os.sysconf("SC_PAGE_SIZE")
    if size < page or size & (size - 1) or size > 1 << 30:
        raise InputError(f"--ring {ring} is not a power of two from {page} bytes to 1G", "try 16M")
    known = [group.name for group in GROUPS]
    groups = known if events == ALL else [name.strip() for name in events.split(",")]
    for name in groups:
        if name not in known:
            raise InputError(f"no event group {name!r}", f"there are: {', '.join(known)}, {ALL}")
    return CaptureOptions(size, maxactive, tuple(groups))


def _seconds(duration: str | None) -> float | None:
    return None if duration is None else parse_duration(duration) / NS_PER_S


def _missing(capture: Capture) -> None:
    for attached in capture.loader.attached:
        if attached.reason:
            note(f"not observed: {attached.reason}; {attached.probe.without}")


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


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Try what this kernel lets us see, and say what is lost where it doesn't.

    Exit status 0 where recording works, 4 where it doesn't.
    """
    from dmabuf_trace.features import examine

    features = examine()
    works = all(feature.found for feature in features if feature.needed)
    system = os.uname()
    if as_json:
        rows = [asdict(feature) for feature in features]
        print(json.dumps({"release": system.release, "works": works, "features": rows}, indent=2))
    else:
        print(f"kernel {system.release} {system.machine}")
        width = max(len(feature.name) for feature in features)
        for feature in features:
            mark = "yes" if feature.found else "NO "
            tail = "" if feature.found else f"; without it {feature.without}"
            print(f"  {mark}  {feature.name:<{width}}  {feature.detail}{tail}")
        print("recording works here" if works else "recording does not work here")
    raise typer.Exit(EXIT_OK if works else EXIT_UNTRACEABLE)


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
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Record dma-buf events, of the whole system, until CMD ends or Ctrl-C.

    The exit status is CMD's; without CMD, 0. 2: bad usage or output; 4: this kernel can't be
    traced, or not by this user; 126, 127: CMD can't be executed, is not found.
    """
    from dmabuf_trace.recorder import RecordOptions
    from dmabuf_trace.recorder import record as run

    path = output or Path(time.strftime("dmabuf-%Y%m%d-%H%M%S.dbt"))
    options = RecordOptions(
        path, tuple(command or ()), _seconds(duration), force, _options(ring, maxactive, events)
    )

    def attached(capture: Capture) -> None:
        _missing(capture)
        if not command:
            note("recording, Ctrl-C to stop")

    outcome = run(options, attached)
    lost = _lost(outcome.losses)
    size = path.stat().st_size
    note(f"{outcome.events} events in {outcome.seconds:.1f} s, {lost} lost, {size} bytes in {path}")
    if outcome.ending.reason != "command ended":
        note(f"ended by {outcome.ending.reason}")
    if command and outcome.ending.status:
        note(f"{command[0]} ended with status {outcome.ending.status}")
    note(f"next: dmabuf-trace report {path}")
    raise typer.Exit(outcome.ending.status)


@app.command(context_settings=RUNS_COMMANDS)
def trace(
    command: Command = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    duration: Duration = None,
    ring: Ring = "8M",
    maxactive: MaxActive = 1024,
    events: Events = ALL,
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
        names.feed_events(batch.events)
        for event in batch.events:
            if as_json:
                print(json.dumps(event_json(event, names)))
            else:
                print(format_event(event, names))
        sys.stdout.flush()

    with Capture(_options(ring, maxactive, events)) as capture, signals_waited_for():
        _missing(capture)
        for found in snapshot.take("start").buffers:
            names.remember(found.buffer, names.intern_exporter(found.exporter))
        if not command:
            note("tracing, Ctrl-C to stop")
        follower = Follower(capture, show)
        ending = follow(follower, arguments, _seconds(duration))
        capture.detach()
        follower.finish()
    lost = _lost(follower.losses)
    note(f"{follower.events} events, {lost} lost")
    raise typer.Exit(ending.status)
