# SPDX-License-Identifier: Apache-2.0
"""The gate: records a command, or reads a recording, and judges it by a policy."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from dmabuf_trace.cli import live
from dmabuf_trace.cli.app import app
from dmabuf_trace.cli.live import note
from dmabuf_trace.errors import EXIT_SKIPPED, InputError, UntraceableError

if TYPE_CHECKING:
    from dmabuf_trace.check import Baseline
    from dmabuf_trace.findings import Verdict
    from dmabuf_trace.policy import Policy

COMMAND: Final = "command"
DASHES: Final = "--"


class FileOrCommand(TyperCommand):
    """What stands behind ``--`` is a command, what stands ahead of it options and a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command away, for ``ctx.meta``."""
        at = args.index(DASHES) if DASHES in args else len(args)
        ctx.meta[COMMAND] = tuple(args[at + 1 :])
        rest: list[str] = super().parse_args(ctx, args[:at])
        return rest


@app.command(cls=FileOrCommand)
def check(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE | -- CMD...]", help="A recording, or a command.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is tolerated, in TOML.")
    ] = None,
    write_policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a policy that this run passes, to begin with."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only what is worse than in this recording counts."),
    ] = None,
    cycles: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Run CMD so many times, and judge what grows from run to run."
        ),
    ] = 1,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT[=FILE]",
            help="text, json, junit, ktap, sarif, github; to stdout without a FILE. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As --to json.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Keep the recording of CMD."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    skip_untraceable: Annotated[
        bool,
        typer.Option("--skip-untraceable", help="Exit with 77 where this kernel can't be traced."),
    ] = False,
    ring: live.Ring = "8M",
    maxactive: live.MaxActive = 1024,
    events: live.Events = live.ALL,
    loader: live.LoaderName = live.AUTO,
    attach: live.Attach = live.AUTO,
    table: live.Tables = None,
    only_command: live.OnlyCommand = False,
    exporter: live.Exporter = "",
    stacks: live.Stacks = None,
) -> None:
    """Judge a recording, or CMD while it runs: no leak, no broken rule, within the policy's limits.

    Exit status 0: clean; 1: findings; 2: bad usage, policy or output; 3: inconclusive, as events
    were lost or not observed; 4: this kernel can't be traced (77 with --skip-untraceable); 5: clean,
    but CMD itself failed; 126, 127: CMD can't be executed, is not found. Without a policy no buffer
    may be left alive and no rule of the contract broken.
    """
    from dmabuf_trace import check as judge
    from dmabuf_trace.outputs import Outputs, Target

    command: tuple[str, ...] = ctx.meta[COMMAND]
    _require_one(file, command, output, cycles)
    rules = judge.policy(policy)
    known = judge.Baseline(baseline, rules) if baseline else None
    with ExitStack() as stack:
        outputs = stack.enter_context(Outputs([*(to or ()), *(["json"] * as_json)], force=force))
        proposal = stack.enter_context(Target(write_policy, force=force)) if write_policy else None
        if file is None:
            kept = output or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "check.dbt"
            filters = live.filters(None, only_command, command, "", exporter, None, None)
            options = live.options(ring, maxactive, events, loader, attach, filters, stacks, table)
            try:
                file = _record(kept, command, cycles, options, force=force)
            except UntraceableError as error:
                if not skip_untraceable:
                    raise
                note(f"skipped: {error}")
                raise typer.Exit(EXIT_SKIPPED) from None
            shown = file if output else None
        else:
            shown = file
        verdict = judge.read(file, rules, baseline=known, shown=shown)
        if proposal:
            proposal.write(judge.propose(file))
        outputs.write(verdict)
    raise typer.Exit(verdict.status)
