# SPDX-License-Identifier: Apache-2.0
"""``./dev bench NAME``: run a benchmark and print its figures, or write them into the README."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.bench import drain, file, paced, report, soak, top
from tests.bench.cost_table import cost_text
from tests.vm import LabError, Machine, run_guest
from tests.vm.guest import EXPEDITED

README: Final = Path(__file__).resolve().parents[2] / "README.md"
TIMEOUT: Final = 1800
COST_TIMEOUT: Final = 3600
"""Ten minutes on an idle host."""


def start(kernel: str) -> str:
    """Start to attached and peak memory, beside bcc."""
    command = ["python3", "-m", "tests.bench.start"]
    # grace periods as they are outside of the lab: how tools attach is what is measured
    machine = Machine(memory="2G", append=(f"{EXPEDITED}=0",))
    done = run_guest(kernel, command, timeout=TIMEOUT, machine=machine)
    if done.returncode:
        sys.exit(f"bench: failed in the guest with status {done.returncode}\n{done.stderr}")
    figures = json.loads(done.stdout)
    ours, peer = figures["core"], figures["bcc"]
    lines = [
        f"Emulated {kernel} guest, 2 processors, medians of 3 interleaved rounds:",
        "",
        "| `record --loader` | process start to attached | peak memory |",
        "|---|---|---|",
        *(
            f"| {tool} | {run['seconds']:.2f} s | {run['peak_mb']:.0f} MB |"
            for tool, run in figures.items()
        ),
        f"| ratio | 1 : {peer['seconds'] / ours['seconds']:.1f} "
        f"| 1 : {peer['peak_mb'] / ours['peak_mb']:.1f} |",
    ]
    return "\n".join(lines)


def cost(kernel: str) -> str:
    """What tracing adds to each call, beside ftrace and bpftrace."""
    command = ["python3", "-m", "tests.bench.cost"]
    machine = Machine(memory="2G", cpus=1, counted=True)
    done = run_guest(kernel, command, timeout=COST_TIMEOUT, machine=machine, module=True)
    if done.returncode:
        sys.exit(f"bench: failed in the guest with status {done.returncode}\n{done.stderr}")
    return cost_text(kernel, json.loads(done.stdout))


def _sizes(options: argparse.Namespace) -> Sequence[int]:
    return options.events or (report.ALL_SIZES if options.all_sizes else report.SIZES)


def _soak(options: argparse.Namespace) -> str:
    seed = soak.new_seed() if options.seed is None else options.seed
    return _each(
        lambda kernel: soak.figures(kernel, options.runs, seed, options.folder),
        options.kernel or ["6.12"],
    )


def _each(run: Callable[[str], str], kernels: Sequence[str]) -> str:
    return "\n\n".join(run(kernel) for kernel in kernels)


BENCHMARKS: Final[dict[str, Callable[[argparse.Namespace], str]]] = {
    "start": lambda options: _each(start, options.kernel or ["6.12"]),
    "cost": lambda options: _each(cost, options.kernel or ["6.12", "7.2"]),
    "drain": lambda options: drain.figures(options.folder),
    "paced": lambda options: paced.figures(options.seconds, options.folder),
    "file": lambda _: file.figures(),
    "report": lambda options: report.figures(_sizes(options), options.folder),
    "soak": _soak,
    "top": lambda options: _each(
        lambda kernel: top.figures(kernel, options.folder), options.kernel or ["6.12"]
    ),
}


def write(name: str, text: str) -> None:
    """Put the figures between their marks in the README."""
    marks = re.compile(rf"(<!-- bench {name} -->\n).*?(<!-- /bench -->)", re.DOTALL)
    content, count = marks.subn(lambda match: f"{match[1]}{text}\n{match[2]}", README.read_text())
    if not count:
        sys.exit(f"bench: no marks for {name} in {README}")
    README.write_text(content)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument(
        "--kernel",
        action="append",
        help="start, cost, soak, top: a kernel of the lab; may be repeated",
    )
    parser.add_argument("--seconds", type=float, default=60, help="paced: how long (default: 60)")
    parser.add_argument(
        "--events", type=int, action="append", help="report: of a recording; may be repeated"
    )
    parser.add_argument(
        "--all-sizes",
        action="store_true",
        help="report: 100 M events as well, a quarter of an hour",
    )
    parser.add_argument("--runs", type=int, default=200, help="soak: of each workload")
    parser.add_argument("--seed", type=int, help="soak: what is planted, and where")
    parser.add_argument(
        "--folder", type=Path, help="drain, paced, report, soak, top: where files are written"
    )
    parser.add_argument("--write", action="store_true", help="write the figures into the README")
    options = parser.parse_args()
    try:
        text = BENCHMARKS[options.name](options)
    except LabError as error:
        sys.exit(f"bench: the lab failed: {error}")
    print(text)
    if options.write:
        write(options.name, text)


if __name__ == "__main__":
    main()
