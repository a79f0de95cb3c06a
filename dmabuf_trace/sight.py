# SPDX-License-Identifier: Apache-2.0
"""Which findings can be had where some events, or parts of a look at the holders, can't.

What each finding rests on is declared by its analysis; here it is held against what is missing.
Must not know how that was found out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from dmabuf_trace.analysis import Shown, registry

Here = Literal["yes", "partly", "no"]

FILTERS: Final = Shown(
    "made before the trace",
    needs=("export",),
    hides={
        "complete": "with --exporter, --min-size, --max-size only what some process held at the "
        "start is watched"
    },
)
"""What filters on buffers do to those that were there before."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Why an event kind, or a part of a look, is missing; not ``whole``: only some of it is."""

    why: str
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Sight:
    """Whether a finding of ``about`` can be had; ``why`` is "" where it can.

    ``never``: no kernel shows it.
    """

    about: str
    name: str
    here: Here
    why: str = ""
    never: bool = False

    @property
    def finding(self) -> str:
        """The whole name."""
        return f"{self.about}: {self.name}" if self.name else self.about


def sights(gaps: Mapping[str, Gap], release: str, nothing: str = "") -> Iterator[Sight]:
    """All findings, by what is missing on the kernel of this release.

    ``nothing``: why nothing can be recorded at all.
    """
    for about, shown in _shown():
        version = re.match(r"(\d+)\.(\d+)", release)
        is_other = version and not shown.since <= (int(version[1]), int(version[2])) < shown.before
        if why := shown.never or nothing or (is_other and "not on this kernel"):
            yield Sight(about, shown.name, "no", why, never=bool(shown.never))
        else:
            yield _sight(about, shown, gaps)


def _shown() -> Iterator[tuple[str, Shown]]:
    """By what they are about, as in a report; where none are told apart, each kind helps."""
    last = len(registry())
    ranked = sorted(registry().values(), key=lambda each: each.report_rank or last)
    for analysis in ranked:
        if analysis.is_list:
            continue
        whole = Shown("", hides=dict.fromkeys(analysis.relies_on, ""))
        for shown in analysis.shows or (whole,):
            yield analysis.name, shown
    yield "filters", FILTERS


def _sight(about: str, shown: Shown, gaps: Mapping[str, Gap]) -> Sight:
    less = [name for name in (*shown.needs, *shown.hides) if name in gaps]
    blind = [name for name in less if gaps[name].whole]
    lost = [name for name in blind if name in shown.needs]
    if not lost and not shown.needs and len(blind) == len(shown.hides):
        lost = blind
    here: Here = "no" if lost else "partly" if less else "yes"
    reasons = _reasons(lost, {}, gaps) if lost else _reasons(less, shown.hides, gaps)
    return Sight(about, shown.name, here, "; ".join(reasons))


def _reasons(
    names: list[str], becomes: Mapping[str, str], gaps: Mapping[str, Gap]
) -> Iterator[str]:
    """What is missing, or what becomes of the finding then; names with the same reason together."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        then = becomes.get(name) or ("not seen: " if gaps[name].whole else "not all seen: ")
        found.setdefault((then, gaps[name].why), []).append(name)
    for (then, why), mine in found.items():
        yield f"{then}{', '.join(mine) if then.endswith(': ') else ''} ({why})"
