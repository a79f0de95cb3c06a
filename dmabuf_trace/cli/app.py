# SPDX-License-Identifier: Apache-2.0
"""The application that commands register on, and the one place that catches errors."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dmabuf_trace.errors import EXIT_USAGE
from dmabuf_trace.render import progress
from dmabuf_trace.render.failure import failures_told, unprintable_escaped
from dmabuf_trace.version import VERSION


class Commands(TyperGroup):
    """All commands; an error that a person can cause becomes two lines and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with failures_told(typer.Exit), progress.shown():
            return super().invoke(ctx)


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
    unprintable_escaped()
    app(prog_name="dmabuf-trace")
