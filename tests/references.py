# SPDX-License-Identifier: Apache-2.0
"""References that an ioctl takes to a buffer by its fd, and never puts; and twins that do.

The first is what iommufd's selftest once did: it took a buffer by dma_buf_get(), found that it was
not one of its own, and returned without putting it.

Runs in a guest: ``python3 -m tests.references record DIR`` leaves ``references.dbt``,
``counted.json`` (what the module counted meanwhile) and the module itself. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.cycle import PAGE
from tests.kmod.client import Buffer, Importer, Ref, load, set_name
from tests.kmod.harness import in_child, refused

MODULE: Final = Path("/opt/kmod/dmabuf_ref.ko")
BALANCED: Final = 5


def looked_at(ref: Ref, buffer: Buffer) -> None:
    """An ioctl takes a reference, finds that the buffer is not one to move, and puts it."""
    with refused(errno.EINVAL):
        ref.move(buffer)


def never_put(ref: Ref, buffer: Buffer) -> None:
    """The same without the put."""
    ref.leak_ref(buffer)


def one_of_many(ref: Ref, buffer: Buffer) -> None:
    """References at several places, many of them, and one of them is never put."""
    for _ in range(BALANCED):
        looked_at(ref, buffer)
    ref.leak_ref(buffer)
    ref.detach(ref.attach(buffer, Importer.IMP64))


def all_put(ref: Ref, buffer: Buffer) -> None:
    """The same without the one."""
    for _ in range(BALANCED):
        looked_at(ref, buffer)
    ref.detach(ref.attach(buffer, Importer.IMP64))


USES: Final[dict[str, Callable[[Ref, Buffer], None]]] = {
    "never-put": never_put,
    "put": looked_at,
    "one-of-many": one_of_many,
    "all-put": all_put,
}
"""By the name of the buffer."""

LEAKED: Final = {"never-put", "one-of-many"}


def use(name: str) -> None:
    """What a process does before it ends: all that it had open is closed by then."""
    with Ref() as ref, ref.export(PAGE) as buffer:
        set_name(buffer.fd, name)
        USES[name](ref, buffer)


def work() -> None:
    """Each in a process of its own."""
    for name in USES:
        _, status = os.waitpid(in_child(partial(use, name)), 0)
        if status:
            raise RuntimeError(f"{name} failed")


def record(out: Path) -> None:
    """Record :func:`work`, then put what it did not."""
    with tempfile.TemporaryDirectory() as own:
        recording = Path(own, "references.dbt")
        recorder = ["dmabuf-trace", "record", "-o", str(recording), "--"]
        subprocess.run([*recorder, "python3", "-m", "tests.references", "work"], check=True)
        shutil.copy(recording, out)
    shutil.copy(MODULE, out)
    with Ref() as ref:
        now = ref.counters()
        counted = {name: getattr(now, name) for name in ("get_ok", "put", "leaked_refs")}
        counted["undone"] = ref.undo_leaks()
        counted["live_buffers"] = ref.counters().live_buffers
    (out / "counted.json").write_text(json.dumps(counted))


def main() -> None:
    """Work | record DIR."""
    match sys.argv[1:]:
        case ["work"]:
            work()
        case ["record", directory]:
            load(MODULE)
            record(Path(directory))
        case _:
            sys.exit("usage: python3 -m tests.references work | record DIR")


if __name__ == "__main__":
    main()
