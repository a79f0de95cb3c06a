# SPDX-License-Identifier: Apache-2.0
"""Commands that read a recording: report, show, and one per analysis. No root, no kernel needed."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmabuf_trace import memory, progress
from dmabuf_trace.analysis import Analysis, Asked, ask, registry
from dmabuf_trace.cli.app import app
from dmabuf_trace.cli.live import Force
from dmabuf_trace.errors import InputError
from dmabuf_trace.units import parse_duration

if TYPE_CHECKING:
    from dmabuf_trace.render.table import Part

STDOUT = "-"
STORY_STEPS = 200
TERMINAL_ROWS = 1000
METAVARS = {"duration": "TIME", "count": "N", "text": "TEXT"}

File = Annotated[Path, typer.Argument(metavar="FILE", help="A recording made by record.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, every row.")]


def _write(pieces: Iterable[str]) -> None:
    progress.over()
    sys.stdout.writelines(chain(pieces, "\n"))


def _show(parts: Iterable[Part]) -> None:
    from dmabuf_trace.render.table import write

    progress.over()
    write(parts, sys.stdout)


InWindow = Annotated[
    str,
    typer.Option(
        metavar="FROM,TO",
        help="Only this time since the trace began, as 90s,2m; what is older counts as made before "
        "the trace.",
    ),
]


def window_of(text: str) -> tuple[int, int] | None:
    """From when to when, ns."""
    if not text:
        return None
    hint = "as in: --window 90s,2m"
    try:
        first, last = map(parse_duration, text.split(","))
    except InputError as error:
        raise InputError(f"--window {text}: {error}", hint) from None
    except ValueError:
        raise InputError(f"--window {text} has not one comma", hint) from None
    if first >= last:
        raise InputError(f"--window {text} ends ahead of its begin", hint)
    return first, last


@app.command()
def report(
    file: File,
    every: Annotated[
        bool, typer.Option("--all", help="Every analysis, but no mere lists.")
    ] = False,
    window: InWindow = "",
    as_json: AsJson = False,
    html: Annotated[
        str,
        typer.Option(
            metavar="OUT",
            help="All of it as one HTML page that needs no network; - is stdout.",
        ),
    ] = "",
    force: Force = False,
) -> None:
    """What a recording holds: totals, leaks, long-held mappings, devices, errors, quality."""
    from dmabuf_trace import report as made
    from dmabuf_trace.render import machine, terminal

    if html:
        if as_json:
            raise InputError("--json and --html are two kinds of output", "choose one")
        _write_page(file, html, window_of(window), force=force)
        return
    memory.prepare()
    found = made.read(file, every=every, window=window_of(window))
    if as_json:
        _write(machine.report_json(found))
    else:
        _show(terminal.report_parts(found))


def _write_page(file: Path, to: str, window: tuple[int, int] | None, *, force: bool) -> None:
    from dmabuf_trace import outputs, page
    from dmabuf_trace.render.html import page_html

    path = None if to == STDOUT else Path(to)
    if path:
        outputs.check_path(path, force=force, stdout=f"--html {STDOUT} is stdout")
    memory.prepare()
    text = page_html(page.read(file, window))
    progress.over()
    if path:
        outputs.write_file(path, text, force=force)
    else:
        sys.stdout.write(text)


@app.command()
def show(
    file: File,
    buffer: Annotated[str, typer.Argument(metavar="BUFFER", help="Inode number or name.")],
    every: Annotated[
        bool, typer.Option("--all", help=f"Every event, not only {STORY_STEPS}.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """One buffer's whole story, and who holds it at the end."""
    from dmabuf_trace import report as made
    from dmabuf_trace import story
    from dmabuf_trace.render import machine, terminal

    opened, told = story.read(file, buffer)
    if as_json:
        _write([machine.story_json(told, made.recording(opened))])
    else:
        _show(terminal.story_parts(told, None if every else STORY_STEPS))


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A recording.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    as_json: AsJson = False,
) -> None:
    """What grew from A to B, what is new, what got slower."""
    from dmabuf_trace import diff as made
    from dmabuf_trace import report
    from dmabuf_trace.render import machine, terminal

    result, traces = made.read(before, after)
    if as_json:
        _write(machine.diff_json(result, *map(report.recording, traces)))
    else:
        _show(terminal.result_parts(result, TERMINAL_ROWS if sys.stdout.isatty() else None))


AsDot = Annotated[bool, typer.Option("--dot", help="A graph in DOT, for Graphviz.")]


def _ask(
    analysis: Analysis, file: Path, window: str, *, as_json: bool, as_dot: bool, **texts: str
) -> None:
    from dmabuf_trace import report as made
    from dmabuf_trace.render import dot, machine, terminal

    if as_json and as_dot:
        raise InputError("--json and --dot are two kinds of output", "choose one")
    memory.prepare()
    last, (result,) = ask(file, [Asked(analysis, **texts)], window_of(window))
    if as_dot and analysis.graph:
        _write([dot.result_dot(result, analysis.graph(result.answer))])
    elif as_json:
        _write(machine.result_json(result, made.recording(last)))
    else:
        limit = TERMINAL_ROWS if sys.stdout.isatty() else None
        _show(terminal.result_parts(result, limit))


def _register(analysis: Analysis) -> None:
    """Make a sub-command of an analysis: its parameters become options."""

    def command(file: Path, window: str, as_json: bool, as_dot: bool = False, **texts: str) -> None:
        _ask(analysis, file, window, as_json=as_json, as_dot=as_dot, **texts)

    def parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(name, kind, annotation=annotation, default=default)

    parameters = [parameter("file", File, inspect.Parameter.empty)]
    for param in analysis.params:
        option = typer.Option(
            metavar=METAVARS[param.kind], help=param.help, show_default=bool(param.default)
        )
        parameters.append(parameter(param.name, Annotated[str, option], param.default))
    parameters.append(parameter("window", InWindow, ""))
    parameters.append(parameter("as_json", AsJson, False))
    if analysis.graph:
        parameters.append(parameter("as_dot", AsDot, False))
    signature = inspect.Signature(parameters)
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    app.command(analysis.name, help=analysis.question)(command)


for _analysis in registry().values():
    _register(_analysis)
