# SPDX-License-Identifier: Apache-2.0
"""The gate: records a command, or reads a recording, and judges it by a policy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from dmabuf_trace import options, progress
from dmabuf_trace.cli import live, selftest
from dmabuf_trace.cli.app import app
from dmabuf_trace.cli.offline import InWindow, window_of
from dmabuf_trace.errors import EXIT_SKIPPED, InputError, UntraceableError

COMMAND: Final = "command"
DASHES: Final = "--"
NO_FILE: Final = Path("FILE")
"""How a recording that is not kept is called."""


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
        Path | None, typer.Argument(metavar="FILE | -- CMD...", help="A recording, or a command.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is tolerated, in TOML.")
    ] = None,
    default_policy: Annotated[
        bool,
        typer.Option(
            "--default-policy", help="Print every key of a policy, with what holds without it."
        ),
    ] = False,
    write_policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a policy that this run passes, to begin with."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only what is worse than in this recording counts."),
    ] = None,
    window: InWindow = "",
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
    force: live.Force = False,
    debug_info: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="vmlinux or MODULE.ko with debug information: findings get a line of source. "
            "Repeatable.",
        ),
    ] = None,
    source_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where that source is: paths begin below it.")
    ] = None,
    skip_untraceable: Annotated[
        bool,
        typer.Option("--skip-untraceable", help="Exit with 77 where this kernel can't be traced."),
    ] = False,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Make known leaks on this kernel, and fail where they are not found; of FILE: a "
            "recording of python3 -m dmabuf_trace.control.",
        ),
    ] = False,
    cycles: live.Cycles = options.CYCLES.default,
    ring: live.Ring = options.RING.default,
    maxactive: live.MaxActive = options.MAXACTIVE.default,
    events: live.Events = options.EVENTS.default,
    loader: live.LoaderName = options.LOADER.default,
    attach: live.Attach = options.ATTACH.default,
    table: live.Tables = None,
    only_command: live.OnlyCommand = False,
    exporter: live.Exporter = "",
    stacks: live.Stacks = None,
) -> None:
    """Judge a recording, or CMD while it runs: no leak, no broken rule, nothing beyond the policy.

    Without a policy no buffer may be left alive and no rule of the contract broken. With --cycles
    it is what grows from run to run that counts. The exit status is 0: clean; 1: findings; 2: bad
    usage, policy or output; 3: inconclusive, as events were lost or not observed; 4: this kernel
    can't be traced; 5: clean, but CMD itself failed; 126, 127: CMD can't be executed, is not found.

    With --self-test it is 0: the gate works here; 1: it does not; 4: this kernel can't be traced,
    or has no exporter that works.
    """
    from dmabuf_trace import check as judge
    from dmabuf_trace.outputs import Outputs, check_path, write_file

    if default_policy:
        print("\n".join(judge.reference()))
        raise typer.Exit
    command: tuple[str, ...] = ctx.meta[COMMAND]
    asked = (command, policy, baseline, write_policy, to, window, debug_info, cycles > 1)
    if self_test and any(asked):
        refused = "CMD, policy, baseline, window, cycles, --to or --debug-info"
        raise InputError(f"--self-test takes no {refused}", "its workload and policy are known")
    if not self_test and (file is None) == (not command):
        raise InputError("check needs a recording or a command", "check FILE, or: check -- CMD...")
    if file and output:
        raise InputError("-o keeps the recording of a command", "leave it out, FILE is there")
    if window and not file:
        raise InputError("--window is a part of a recording", "check FILE --window FROM,TO")
    if self_test and file:
        raise typer.Exit(selftest.tell(selftest.prove_file(file), as_json=as_json))
    rules = judge.policy(policy)
    debug = judge.DebugInfo(debug_info, source_root) if debug_info else None
    known = judge.Baseline(baseline, rules) if baseline else None
    others = [each for each in (output, write_policy) if each]
    outputs = Outputs.open([*(to or ()), *["json"] * as_json], force=force, taken=others)
    if write_policy:
        check_path(write_policy, force=force)
    with ExitStack() as stack:
        shown = file or output
        if file is None:
            from dmabuf_trace.notes import record_with_notes
            from dmabuf_trace.request import Request

            kept = output or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "check.dbt"
            request = Request(
                command,
                str(kept),
                ring=ring,
                maxactive=maxactive,
                events=events,
                loader=loader,
                attach=attach,
                table=table,
                only_command=only_command,
                exporter=exporter,
                stacks=stacks,
                cycles=cycles,
                force=force,
            )
            with _skipping(skip_untraceable):
                if self_test:
                    proof = selftest.prove_here(request)
                    raise typer.Exit(selftest.tell(proof, as_json=as_json))
                file = record_with_notes(request.recording(), is_all=False).output
        verdict = judge.read(
            file,
            rules,
            window=window_of(window),
            baseline=known,
            shown=shown or NO_FILE,
            debug_info=debug,
        )
        if write_policy:
            write_file(write_policy, judge.propose(file), force=force)
        progress.over()
        outputs.write(verdict)
    raise typer.Exit(verdict.status)


@contextmanager
def _skipping(wanted: bool) -> Iterator[None]:
    """Within: where this kernel can't be traced, the exit status is 77 if that is wanted."""
    from dmabuf_trace.stderr import note

    try:
        yield
    except UntraceableError as error:
        if not wanted:
            raise
        note(f"skipped: {error}")
        raise typer.Exit(EXIT_SKIPPED) from None
