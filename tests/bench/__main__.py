# SPDX-License-Identifier: Apache-2.0
"""``./dev bench NAME``: run a benchmark and print its figures, or write them into the README."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.vm import LabError, Machine, run_guest

README: Final = Path(__file__).resolve().parents[2] / "README.md"
TIMEOUT: Final = 900


def start(kernel: str) -> str:
    """Start to attached and peak memory, beside bcc."""
    command = ["python3", "-m", "tests.bench.start"]
    done = run_guest(kernel, command, timeout=TIMEOUT, machine=Machine(memory="2G"))
    if done.returncode:
        sys.exit(f"bench: failed in the guest with status {done.returncode}\n{done.stderr}")
    figures = json.loads(done.stdout)
    ours, peer = figures["dmabuf-trace record"], figures["bcc program"]
    lines = [
        f"Emulated {kernel} guest, 2 processors, medians of 3 interleaved rounds:",
        "",
        "| tool | process start to attached | peak memory |",
        "|---|---|---|",
        *(
            f"| {tool} | {run['seconds']:.2f} s | {run['peak_mb']:.0f} MB |"
            for tool, run in figures.items()
        ),
        f"| ratio | 1 : {peer['seconds'] / ours['seconds']:.1f} "
        f"| 1 : {peer['peak_mb'] / ours['peak_mb']:.1f} |",
    ]
    return "\n".join(lines)


BENCHMARKS: Final[dict[str, Callable[[str], str]]] = {"start": start}


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
    parser.add_argument("--kernel", default="6.12", help="a kernel of the lab (default: 6.12)")
    parser.add_argument("--write", action="store_true", help="write the figures into the README")
    options = parser.parse_args()
    try:
        text = BENCHMARKS[options.name](options.kernel)
    except LabError as error:
        sys.exit(f"bench: the lab failed: {error}")
    print(text)
    if options.write:
        write(options.name, text)


if __name__ == "__main__":
    main()
