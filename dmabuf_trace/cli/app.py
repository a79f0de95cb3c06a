# SPDX-License-Identifier: Apache-2.0
"""The application that commands register on, and the one place that catches errors."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dmabuf_trace.errors import EXIT_USAGE, TraceError
from dmabuf_trace.render.text import printable
from dmabuf_trace.version import VERSION

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class Commands(TyperGroup):
    """All commands; an error that a person can cause becomes two lines and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except TraceError as error:
            print(f"dmabuf-trace: {printable(str(error))}", file=sys.stderr)
            if error.hint:
                print(f"  {printable(error.hint)}", file=sys.stderr)
            raise typer.Exit(error.status) from None
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # whoever read us has enough; the interpreter's own flush at exit must not complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_BROKEN_PIPE) from None
        return result


app = typer.Typer(
    name="dmabuf-trace",
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"dmabuf-trace {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Trace and profile Linux dma-buf: who holds which buffer, who leaks, what it costs."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(EXIT_USAGE)


def main() -> None:
    """Entry point of the command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="dmabuf-trace")
