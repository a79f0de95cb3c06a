# SPDX-License-Identifier: Apache-2.0
"""The command that shows what goes on as a live table: top."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from dmabuf_trace import header, options
from dmabuf_trace.cli import live
from dmabuf_trace.cli.app import app
from dmabuf_trace.errors import InputError
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import parse_duration

if TYPE_CHECKING:
    from dmabuf_trace.request import Request
    from dmabuf_trace.top.activity import Moment

NS_PER_S = 1_000_000_000
SHORTEST = 50_000_000
"""ns between two frames."""
END_SECONDS = 0.1
"""How often a key is looked for, once a recording is at its end."""
GARBAGE = 100_000
"""Objects that are made between two looks for cycles: a look at the holders makes many, in none."""
SHARE = 0.25
"""Of the time of one processor, for what is shown."""
AT_ONCE = float("inf")
UNSEEN_SIZE = (120, 48)
"""Columns and lines of a frame that goes to no terminal, unless COLUMNS and LINES tell."""


class Output(Protocol):
    """Where moments go; ``is_over``: whoever looks at them has had enough."""

    is_over: bool

    def publish(self, moment: Moment) -> None: ...


class Printer:
    """Prints moments, or the last one ``only`` when :meth:`finish` is called."""

    def __init__(self, write: Callable[[Moment], None], *, only_last: bool) -> None:
        self.is_over = False
        self._write = write
        self._only_last = only_last
        self._last: Moment | None = None

    def publish(self, moment: Moment) -> None:
        if self._only_last:
            self._last = moment
        else:
            self._write(moment)

    def finish(self) -> None:
        """Print the last moment, unless it was."""
        if self._last:
            self._write(self._last)


def _print_json() -> Callable[[Moment], None]:
    """Prints a moment as a line."""
    import json

    from dmabuf_trace.top.document import document

    return lambda moment: print(json.dumps(document(moment)), flush=True)


def _print_frame(title: str) -> Callable[[Moment], None]:
    """Prints a moment as a screen, in colours if that is a terminal."""
    import re
    import shutil

    from dmabuf_trace.top.draw import Frame, draw
    from dmabuf_trace.top.view import View

    size = shutil.get_terminal_size(UNSEEN_SIZE)

    def write(moment: Moment) -> None:
        is_plain = "utf" not in sys.stdout.encoding.lower()
        frame = Frame(size.columns, size.lines - 1, title, is_plain, has_keys=False)
        drawn = draw(View(), moment, moment, frame)
        if sys.stdout.isatty():
            from rich.console import Console

            Console(highlight=False, width=size.columns).print(drawn)
        else:
            text = "\n".join(line.plain.rstrip() for line in drawn)
            print(re.sub("\n{3,}", "\n\n", text).rstrip())

    return write


@contextmanager
def _output(title: str, *, once: bool, as_json: bool) -> Iterator[Output]:
    if once or as_json:
        printer = Printer(_print_json() if as_json else _print_frame(title), only_last=once)
        yield printer
        printer.finish()
        return
    from dmabuf_trace.top.screen import shown_on

    encoding = sys.stdout.encoding
    with _terminal_alone() as (out, keys), shown_on(out, keys, encoding, title) as screen:
        yield screen


@contextmanager
def _terminal_alone() -> Iterator[tuple[int, int | None]]:
    """Within: stdout, and stdin where keys come from; nobody else writes there, or reads them."""
    has_keys = sys.stdin.isatty()
    sys.stdout.flush()
    sys.stderr.flush()
    mine = [os.dup(fd) for fd in range(3)]
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)
    try:
        yield mine[1], mine[0] if has_keys else None
    finally:
        for fd in range(3):
            os.dup2(mine[fd], fd)
        for fd in (nothing, *mine):
            os.close(fd)


def _require_terminal() -> None:
    """A table that is drawn again and again needs one."""
    if not sys.stdout.isatty():
        raise InputError("stdout is no terminal", "add --once for one frame, or --json")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise InputError("this terminal can't be drawn on", "add --once for one frame, or --json")


@app.command(context_settings=live.RUNS_COMMANDS)
def top(
    command: live.Command = None,
    interval: Annotated[
        str, typer.Option(metavar="TIME", help="From one frame to the next.")
    ] = "500ms",
    once: Annotated[
        bool, typer.Option("--once", help="One frame: after one interval, or CMD's end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per interval.")] = False,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Play this recording; needs no root.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(metavar="N", min=0.001, help="Play so many times as fast.")
    ] = None,
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
    """A live table: what is alive, who made it, what goes on, what seems to leak.

    Of the whole system, unless filtered, until q, Ctrl-C or CMD's end; press ? for the keys. CMD's
    own output is dropped, unless with --once or --json. The exit status is CMD's; without CMD, 0.
    """
    import gc

    from dmabuf_trace.request import Request

    gc.set_threshold(GARBAGE)
    step = parse_duration(interval)
    if step < SHORTEST:
        raise InputError(f"--interval {interval} is too short", "from 50ms on")
    request = Request(
        *(tuple(command or ()), None, duration, ring, maxactive, events, loader, attach, table),
        *(pid, only_command, comm, exporter, min_size, max_size),
    )
    if not once and not as_json:
        _require_terminal()
    if replay is None:
        if speed is not None:
            raise InputError("--speed without --replay", "add: --replay FILE")
        raise typer.Exit(_live(request, step, once=once, as_json=as_json))
    if request != Request():
        raise InputError("--replay plays all of a recording", "leave out the other options and CMD")
    _replay(replay, step, AT_ONCE if once else speed or 1.0, once=once, as_json=as_json)


def _replay(path: Path, step: int, speed: float, *, once: bool, as_json: bool) -> None:
    from dmabuf_trace.session import signals_waited_for, wait_signal
    from dmabuf_trace.stderr import note
    from dmabuf_trace.top.replay import Replay

    def wait(seconds: float) -> bool:
        return wait_signal(seconds) is not None or output.is_over

    title = f"{path.name} x{speed:g}" if speed != AT_ONCE else path.name
    played = Replay(path, step, speed, wait)
    with signals_waited_for(), _output(title, once=once, as_json=as_json) as output:
        for moment in played.moments():
            output.publish(moment)
        is_looked_at = not once and not as_json and not played.is_stopped
        while is_looked_at and not wait(END_SECONDS):
            pass
    if played.cut:
        note(printable(f"{path} was cut: {played.cut}"))


def _live(request: Request, step: int, *, once: bool, as_json: bool) -> int:
    import signal
    import time

    from dmabuf_trace.capture import Batch, Capture
    from dmabuf_trace.notes import note_missing
    from dmabuf_trace.session import (
        Follower,
        Interrupt,
        Periodic,
        find_command,
        follow,
        signals_waited_for,
        wait_signal,
    )
    from dmabuf_trace.snapshot import Looker
    from dmabuf_trace.stderr import note, note_lost
    from dmabuf_trace.top.activity import Activity

    quits = iter([Interrupt(signal.SIGINT, from_terminal=False)])

    def wait(seconds: float) -> Interrupt | None:
        return wait_signal(seconds) or (next(quits, None) if output.is_over else None)

    def take(batch: Batch) -> None:
        activity.feed_names(batch.names)
        activity.feed(batch.events)

    def publish() -> None:
        output.publish(activity.moment(time.monotonic_ns()))

    find_command(request.command)
    seconds = request.seconds
    if once and not request.command and seconds is None:
        seconds = step / NS_PER_S
    with Capture(request.capture()) as capture, signals_waited_for():
        if once or as_json:
            note_missing(capture)
        missing = header.missing(capture.header(request.command))
        activity = Activity(time.monotonic_ns(), missing)
        with Looker() as looker:
            activity.look(capture.watch.begin(looker.take("start")))
            capture.know_tables(looker.tables)
        chosen = capture.options.filters.arguments()
        title = " ".join([os.uname().release, *chosen, *request.command])
        with _output(title, once=once, as_json=as_json) as output:
            publish()
            follower = Follower(capture, take, activity.lose)
            follower.periodic = Periodic(step / NS_PER_S, publish, share=SHARE)
            follower.wait = wait
            ending = follow(follower, request.command, seconds)
            capture.detach()
            follower.finish()
            publish()
    lost = note_lost(follower.losses)
    note(f"{follower.events} events, {lost} lost")
    return ending.status
