# SPDX-License-Identifier: Apache-2.0
"""Check the loaded-on-demand module on this kernel: `python3 -m tests.kmod.selftest MODULE`.

Runs as root, in a guest. Prints PASS, SKIP or FAIL with each check's claim, and stops at the first
failure: exit status 1. After each check the module must be at rest, and the kernel must not have
complained.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType

from tests.kmod import (
    careless,
    client,
    dynamic,
    fences,
    foreign,
    fuzz,
    lifetimes,
    mixed,
    moves,
    negotiation,
    semantics,
    unloading,
    wraps,
)
from tests.kmod.client import Ref
from tests.kmod.harness import KernelLog, SkipError, idle

PREFIX = "check_"
# Take an open Ref:
WITH_REF = (
    *(semantics, negotiation, dynamic, moves, fences, foreign, lifetimes, wraps, careless, fuzz),
    mixed,
)
WITH_MODULE = (unloading,)  # take the module's path; no Ref may be open


def checks_in(groups: Iterable[ModuleType]) -> dict[str, Callable[..., None]]:
    """The groups' checks by name, in the order of their text."""
    return {
        f"{group.__name__.rpartition('.')[2]}.{name.removeprefix(PREFIX)}": function
        for group in groups
        for name, function in vars(group).items()
        if name.startswith(PREFIX) and inspect.isfunction(function)
    }


def run_with_ref(check: Callable[[Ref], None]) -> None:
    """Run with a device file of its own; whatever the check leaves to that file, it must clean."""
    with Ref() as observer:
        with Ref() as ref:
            check(ref)
        reasons = idle(observer)
    assert not reasons, "left behind: " + "; ".join(reasons)


def outcome(name: str, check: Callable[..., None], run: Callable[[], None], log: KernelLog) -> bool:
    """Run one check and print how it went, with what it claims; true unless it failed."""
    claim = inspect.getdoc(check)
    try:
        run()
        complaints = log.complaints()
        assert not complaints, "the kernel says: " + " | ".join(complaints)
    except SkipError as reason:
        print(f"SKIP {name}: {reason}", flush=True)
    except Exception:
        print(f"FAIL {name}: {claim}\n{traceback.format_exc()}", flush=True)
        return False
    else:
        print(f"PASS {name}: {claim}", flush=True)
    return True


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print("usage: python3 -m tests.kmod.selftest PATH/dmabuf_ref.ko", file=sys.stderr)
        return 2
    if os.geteuid():
        print("selftest: needs root; run it in a guest", file=sys.stderr)
        return 2
    module = Path(arguments[0])
    log = KernelLog()
    try:
        client.load(module)
    except subprocess.CalledProcessError as error:
        print(f"selftest: {error.stderr.strip()}", file=sys.stderr)
        return 2

    runs = {name: (c, partial(run_with_ref, c)) for name, c in checks_in(WITH_REF).items()}
    runs |= {name: (c, partial(c, module)) for name, c in checks_in(WITH_MODULE).items()}
    for name, (check, run) in runs.items():
        if not outcome(name, check, run, log):
            # The next one would start from whatever this one left.
            print("selftest: FAILED; the checks after this one were not run", flush=True)
            return 1
    client.unload()
    print("selftest: passed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
