# SPDX-License-Identifier: Apache-2.0
"""What `dmabuf-trace doctor` must say on each kernel, and the README's table of it.

`./dev vm pin` asks anew and writes both; a test on each kernel holds doctor to its pins, in both
directions, and another one the README's table to them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from tests.vm.errors import LabError
from tests.vm.guest import run_guest
from tests.vm.kernels import KERNELS
from tests.vm.stage import TREE

PINS = Path(__file__).with_name("doctor.json")
README = TREE / "README.md"
TABLE = re.compile(r"(<!-- kernels -->\n).*?(<!-- /kernels -->)", re.DOTALL)
PROBE = "probe "
FINDING = "finding "
SECTIONS = {"": "", PROBE: "probes ", FINDING: "findings "}
"""By how a name in the pins begins: how a row of the README's table does."""
UNTRACEABLE = 4

Answers = dict[str, bool | str]
"""Whether each feature that doctor names was found; of findings yes, partly or no."""


def answers(text: str) -> Answers:
    """What `doctor --json` printed, as far as it is the kernel's doing."""
    said = json.loads(text)
    found: Answers = {feature["name"]: feature["found"] for feature in said["features"]}
    return found | {FINDING + each["finding"]: each["here"] for each in said["findings"]}


def ask(kernel: str) -> Answers:
    """Boot a kernel and let doctor look."""
    done = run_guest(kernel, ["dmabuf-trace", "doctor", "--json"])
    if done.returncode not in (0, UNTRACEABLE):
        raise LabError(f"doctor ended with status {done.returncode}: {done.stderr.strip()}")
    return answers(done.stdout)


def load() -> dict[str, Answers]:
    """The pins, by kernel."""
    pins: dict[str, Answers] = json.loads(PINS.read_text())
    return pins


def save(pins: Mapping[str, Answers]) -> None:
    """Replace the pins."""
    PINS.write_text(json.dumps(pins, indent=1) + "\n")


def table(said: Mapping[str, Answers]) -> str:
    """Markdown, a column a kernel; features that the same kernels have share a row.

    Findings that none has are left out.
    """
    rows: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in dict.fromkeys(name for found in said.values() for name in found):
        support = tuple(_cell(found.get(name, False)) for found in said.values())
        rows.setdefault((_section(name), support), []).append(name)
    lines = [f"| | {' | '.join(said)} |", f"|---|{'---|' * len(said)}"]
    for (section, support), names in sorted(rows.items(), key=_order):
        if section == FINDING and set(support) == {"no"}:
            continue
        quote = "`" if section else ""
        what = ", ".join(f"{quote}{name.removeprefix(section)}{quote}" for name in names)
        lines.append(f"| {SECTIONS[section]}{what} | {' | '.join(support)} |")
    return "\n".join(lines)


def _section(name: str) -> str:
    return next((start for start in (PROBE, FINDING) if name.startswith(start)), "")


def _cell(answer: bool | str) -> str:
    return answer if isinstance(answer, str) else "yes" if answer else "no"


def _order(row: tuple[tuple[str, tuple[str, ...]], list[str]]) -> tuple[int, int]:
    """Features ahead of probes and findings, what is everywhere first."""
    (section, support), _ = row
    return list(SECTIONS).index(section), -support.count("yes")


def with_table(readme: str, said: Mapping[str, Answers]) -> str:
    """The README's text with this table between its marks."""
    text, count = TABLE.subn(lambda marks: f"{marks[1]}{table(said)}\n{marks[2]}", readme)
    if count != 1:
        raise LabError(f"{README.name} has no marks for the table of kernels")
    return text


def write_readme(said: Mapping[str, Answers]) -> None:
    """Write the table into the README, kernels in the lab's order."""
    ordered = {name: said[name] for name in KERNELS if name in said}
    README.write_text(with_table(README.read_text(), ordered))
