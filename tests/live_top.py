# SPDX-License-Identifier: Apache-2.0
"""top on a real kernel: what it shows of a workload that the reference exporter counts as well.

``python3 -m tests.live_top DIR`` (in a guest) leaves in DIR ``top.json``, a document an interval,
``counts.json``, what the module counted meanwhile, and ``terminal.json``: how top ended on a
terminal, and what it drew there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.cycle import PAGE, cycles
from tests.kmod.client import Importer, Ref, load
from tests.on_terminal import INSTALLED, Terminal

MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
WORK: Final = ("python3", "-m", "tests.live_top", "work")
BEFORE: Final = 3
BEFORE_SIZE: Final = 16 * PAGE
CYCLES: Final = 400
POLL_SECONDS, DEADLINE_SECONDS = 0.2, 60
LEFT: Final = 2
"""Buffers that are there at the end of the work, attached and mapped."""


def work(documents: Path) -> None:
    """At full speed, and then as it stands until top has shown it."""
    cycles(CYCLES)
    with Ref() as ref:
        for _ in range(LEFT):
            ref.map(ref.attach(ref.export(PAGE), Importer.IMP32))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while f'"buffers": {BEFORE + LEFT},' not in documents.read_text():
            if time.monotonic() > deadline:
                raise RuntimeError("top never showed what is left")
            time.sleep(POLL_SECONDS)


def by_json(out: Path, ref: Ref) -> None:
    """Its documents, beside what the module counts."""
    before = ref.counters()
    # not in DIR: on 6.12's 9p it began with zeros, as one writes while another reads
    with tempfile.NamedTemporaryFile() as file:
        command = [*INSTALLED, "--json", "--interval", "300ms", "--", *WORK, file.name]
        subprocess.run(command, stdout=file, check=True)
        shutil.copyfile(file.name, out / "top.json")
    (out / "counts.json").write_text(json.dumps(ref.counters() - before))


def on_a_terminal(out: Path) -> None:
    """Until a person presses q."""
    with Terminal(["--interval", "300ms"], command=INSTALLED) as terminal:
        terminal.wait_for("dmabuf_ref")
        cycles(CYCLES)
        at = terminal.press("4")
        terminal.wait_for("attached  mapped", at)
        terminal.press("q")
        status, said = terminal.end()
        drawn = {"status": status, "said": said, "sent": terminal.sent}
        same = terminal.modes == terminal.before
    (out / "terminal.json").write_text(json.dumps({**drawn, "given_back": same}))


def main() -> None:
    """Work FILE | DIR."""
    if sys.argv[1] == "work":
        work(Path(sys.argv[2]))
        return
    out = Path(sys.argv[1])
    load(MODULE)
    with Ref() as ref:
        kept = [ref.export(BEFORE_SIZE) for _ in range(BEFORE)]
        by_json(out, ref)
        on_a_terminal(out)
        for buffer in kept:
            buffer.close()


if __name__ == "__main__":
    main()
