# SPDX-License-Identifier: Apache-2.0
"""``check`` around commands, for what CI sees of it: its exit status, and whether CMD was run.

Leaves ``results.json`` in DIR, outputs of some runs, and recordings to judge elsewhere. A command
that must not be run would leave a file ``ran``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from dmabuf_trace.outputs import FORMATS
from tests.gate.windows import LOCAL, MODULE
from tests.kmod.client import Ref, load
from tests.weather.refused import NO_TRACEFS
from tests.weather.watch import TRACE, Result, run, shell

COMMAND: Final = "python3 -m tests.gate.command"
CYCLES: Final = 6
BAD_POLICY: Final = "[leaks]\nbuffrs = 1\n"
PRECIOUS: Final = "somebody else's"


def check(name: str, command: str, *options: str) -> Result:
    """Judge a command, in every format; the files are called after it."""
    to = (f"--to={each}={LOCAL}/{name}.{each}" for each in FORMATS)
    done = run(TRACE, "check", *to, *options, "--", *command.split())
    with Ref() as ref:
        return {**done, "undone": ref.undo_leaks()}


def refusals(out: Path) -> dict[str, Result]:
    """What can't be used is refused ahead of CMD, where CMD could be recorded."""
    policy, existing, garbage = (LOCAL / name for name in ("policy", "existing", "garbage"))
    policy.write_text(BAD_POLICY)
    existing.write_text(PRECIOUS)
    garbage.write_text("no recording")
    refused = {
        "bad baseline": ["--baseline", str(garbage)],
        "bad policy": ["--policy", str(policy)],
        "bad output": ["--to", f"junit={LOCAL}/none/out"],
        "existing output": ["--to", f"json={existing}"],
    }
    results = {
        name: run(TRACE, "check", *options, "--", "touch", f"{out}/ran")
        for name, options in refused.items()
    }
    results["not found"] = run(TRACE, "check", "--", "no-such-command")
    hidden = f"{NO_TRACEFS}; exec {TRACE} check"
    results["untraceable"] = shell(f"{hidden} -- touch {out}/ran")
    results["skipped"] = shell(f"{hidden} --skip-untraceable -- touch {out}/ran")
    results["existing output"]["kept"] = existing.read_text()
    return results


def recordings(out: Path) -> None:
    """Of commands that end badly: recorded here, judged elsewhere."""
    scripts = {"failing-leak": f"{COMMAND} leak; exit 3", "signalled": "kill -9 $$"}
    for name, script in scripts.items():
        local = LOCAL / f"{name}.dbt"
        run(TRACE, "record", "-o", str(local), "--", "sh", "-c", script)
        shutil.copy(local, out)
        with Ref() as ref:
            ref.undo_leaks()


def judge(out: Path) -> None:
    """All of it."""
    load(MODULE)
    LOCAL.mkdir()
    results = {
        **refusals(out),
        "clean": check("clean", f"{COMMAND} clean"),
        "leak": check("leak", f"{COMMAND} leak"),
        "failing": check("failing", "false"),
        "growing": check("growing", f"{COMMAND} leak", "--cycles", str(CYCLES)),
        "cache": check("cache", f"{COMMAND} cache", "--cycles", str(CYCLES)),
    }
    recordings(out)
    for name in ("clean", "leak", "failing", "growing", "cache"):
        for each in FORMATS:
            shutil.copy(LOCAL / f"{name}.{each}", out)
    (out / "results.json").write_text(json.dumps(results))
