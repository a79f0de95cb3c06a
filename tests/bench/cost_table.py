# SPDX-License-Identifier: Apache-2.0
"""The figures of ``cost`` as text: medians of the rounds, and the goals they are held to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, Final

BARE: Final = "bare"
OURS: Final = "ours"
OFF: Final = "ours, --events buffers"
KPROBE_EVENTS: Final = "ftrace kprobe events"
FPROBE_EVENTS: Final = "ftrace fprobe events"
BPFTRACE: Final = "bpftrace, kprobes"
LOOPS: Final = {
    "alloc": "export, close",
    "import": "attach, map, unmap, detach",
    "sync": "begin and end CPU access",
    "files": "open, close an ordinary file; no dma-buf seen yet",
    "files again": "the same, later",
}
FILES: Final = ("files", "files again")
FILES_GOAL: Final = 0.05
READER_GOAL: Final = 1 / 3

Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]


class Costs:
    """Instructions that each tool adds, by tool and loop."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self.tools = [tool for tool in figures if tool != BARE]

    def bare(self, loop: str) -> float:
        """Once round the loop, with no tool on."""
        return float(statistics.median(self._figures[BARE][loop]["loop"]))

    def added(self, tool: str, loop: str, reader: bool = False) -> float:
        """What the tool adds to it: the probes alone, or with what its reader uses."""
        figure = self._figures[tool][loop]
        own = float(statistics.median(figure["loop"])) - self.bare(loop)
        return own + float(statistics.median(figure["reader"])) if reader else own

    def calls(self, tool: str, loop: str) -> int:
        """Calls that the tool reports, its entry and return taken as one."""
        return int(self._figures[tool][loop]["events"])

    def hits(self, tool: str, loop: str) -> int:
        """Firings of probes, entries and returns; as counted for kprobes on the same functions."""
        counted = int(self._figures[tool][loop]["hits"])
        if counted or "tracepoints" in tool:
            return counted or self.calls(tool, loop)
        return int(self._figures[KPROBE_EVENTS][loop]["hits"])

    def spread(self) -> float:
        """The widest range of bare rounds, as a share of their median."""
        ranges = [
            (max(figure["loop"]) - min(figure["loop"])) / self.bare(loop)
            for loop, figure in self._figures[BARE].items()
        ]
        return float(max(ranges))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _per(total: float, number: int) -> str:
    return f"{total / number:,.0f}" if number else "-"


def _cycle(costs: Costs, tool: str) -> str:
    own, whole = (costs.added(tool, "cycle", reader) for reader in (False, True))
    calls, hits = costs.calls(tool, "cycle"), costs.hits(tool, "cycle")
    reads = [f"{whole:,.0f}", _per(whole, calls)] if whole != own else ["-", "-"]
    return _row([tool, str(calls), f"{own:,.0f}", _per(own, calls), _per(own, hits), *reads])


def _share(costs: Costs, tool: str, loop: str) -> str:
    added = costs.added(tool, loop)
    return f"{added:+,.0f} ({100 * added / costs.bare(loop):+.1f} %)"


def _goals(costs: Costs) -> list[str]:
    def of(tool: str, reader: bool = False) -> float:
        return costs.added(tool, "cycle", reader) / costs.calls(tool, "cycle")

    lines = []
    if FPROBE_EVENTS in costs.tools:
        lines.append(_goal("a call, to ftrace's fprobe events", of(OURS), of(FPROBE_EVENTS), 1))
    if BPFTRACE in costs.tools:
        ours, theirs = of(OURS, True), of(BPFTRACE, True)
        lines.append(_goal("a call, readers included, to bpftrace", ours, theirs, READER_GOAL))
    added = max(costs.added(OURS, loop) / costs.bare(loop) for loop in FILES)
    lines.append(_goal("an ordinary file's open and close, to none", added, 1, FILES_GOAL))
    off = max(abs(costs.added(OFF, loop)) / costs.bare(loop) for loop in ("sync", *FILES))
    lines.append(_goal("groups that are off, to none", off, 1, max(costs.spread(), 0.001)))
    return lines


def _goal(what: str, ours: float, theirs: float, limit: float) -> str:
    ratio = ours / theirs
    return f"- {what}: {ratio:.3f}, goal {limit:.3f}: {'met' if ratio <= limit else 'NOT met'}"


def cost_text(kernel: str, result: Mapping[str, Any]) -> str:
    """Two tables and the goals, for one kernel."""
    costs = Costs(result["figures"])
    lines = [
        f"Kernel {kernel}. One buffer from its export to its release takes "
        f"{costs.bare('cycle'):,.0f} instructions untraced; what tracing adds to that:",
        "",
        _row(["tool", "calls told", "added", "a call", "a probe hit", "with reader", "a call"]),
        _row(["---"] * 7),
        *(_cycle(costs, tool) for tool in costs.tools if costs.calls(tool, "cycle")),
        "",
        _row(["added to", *LOOPS.values()]),
        _row(["---"] * (len(LOOPS) + 1)),
        _row(["nothing", *(f"{costs.bare(loop):,.0f}" for loop in LOOPS)]),
        *(_row([tool, *(_share(costs, tool, loop) for loop in LOOPS)]) for tool in costs.tools),
        "",
        *_goals(costs),
        *(f"- {tool}: not measured: {why}" for tool, why in result["missing"].items()),
    ]
    return "\n".join(lines)
