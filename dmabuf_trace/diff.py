# SPDX-License-Identifier: Apache-2.0
"""Two recordings beside each other: what grew, what is new, what got slower, what fails more.

Nothing is matched by inode number, address or pid, which no two recordings share, but by exporter,
device, name and stack. Where recordings differ in length, what happens all the time is compared per
second. What one of them did not observe is NA and has no verdict. Must not know terminals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Result, Table, View, doubts, pick
from dmabuf_trace.columns import TEXT
from dmabuf_trace.measure import added, joined, lengths, times
from dmabuf_trace.stacks import maker
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from dmabuf_trace.trace import Trace

SLOWER: Final = 1.25
"""A call is slower, or faster, where its median and its 95th percentile are by this factor."""
ENOUGH: Final = 20
"""Calls in each recording, below which nothing is said of their lengths."""
NS_PER_S: Final = 1_000_000_000

ALIVE_COLUMNS: Final = (
    Column("verdict", "text", "verdict"),
    Column("exporter", "text", "exporter"),
    Column("name", "text", "name"),
    Column("comm", "text", "exported by"),
    Column("at", "text", "exported at", spare=True),
    Column("buffers_a", "count", "alive in A"),
    Column("buffers_b", "count", "in B"),
    Column("size_bytes_a", "bytes", "size in A"),
    Column("size_bytes_b", "bytes", "in B"),
)
CALL_COLUMNS: Final = (
    Column("verdict", "text", "verdict"),
    Column("call", "text", "call"),
    Column("device", "text", "device"),
    Column("exporter", "text", "exporter"),
    Column("calls_a", "count", "calls in A"),
    Column("calls_b", "count", "in B"),
    Column("p50_ns_a", "duration", "p50 in A"),
    Column("p50_ns_b", "duration", "in B"),
    Column("p95_ns_a", "duration", "p95 in A"),
    Column("p95_ns_b", "duration", "in B"),
)
ERROR_COLUMNS: Final = (
    Column("verdict", "text", "verdict"),
    Column("kind", "text", "call"),
    Column("error", "text", "error"),
    Column("device", "text", "device"),
    Column("errors_a", "count", "in A"),
    Column("errors_b", "count", "in B"),
)
_CALL: Final = ["call", "device", "exporter"]
_ERROR: Final = ["kind", "error", "device"]
NEEDS: Final = ("buffers", "attachments", "mappings", "errors")
RELIES_ON: Final = ("export", "release", "attach", "map")

_ORDER: Final = ("new", "grew", "more", "slower", "same", "faster", "fewer", "shrank", "gone")


@dataclass(frozen=True, slots=True)
class Folded:
    """How long calls that succeeded took, and how many failed, so far."""

    calls: pd.DataFrame | None = None
    errors: pd.DataFrame | None = None


Side = tuple[View, Folded]
"""The last stretch of a trace, and what there was in all of them."""


def diff(before: Trace, after: Trace) -> Result:
    """Compare whole traces; A is ``before``, B is ``after``."""
    return _compared(_folded([before]), _folded([after]))[0]


def read(before: Path, after: Path) -> tuple[Result, tuple[Trace, Trace]]:
    """Compare recordings of any length; the last stretch of each.

    Raises:
        InputError: one of them is not a recording that this version reads.
    """
    from dmabuf_trace.trace import stretches

    return _compared(_folded(stretches(before)), _folded(stretches(after)))


def _folded(stretches: Iterable[Trace]) -> tuple[Trace, Folded]:
    folded = None
    for stretch in stretches:
        folded = fold(View(stretch, NEEDS), folded)
    return stretch, folded or Folded()


def _compared(
    before: tuple[Trace, Folded], after: tuple[Trace, Folded]
) -> tuple[Result, tuple[Trace, Trace]]:
    traces = {"A": before[0], "B": after[0]}
    answer = run(*((View(trace, NEEDS), folded) for trace, folded in (before, after)))
    found = (
        f"{name}: {doubt}" for name, trace in traces.items() for doubt in doubts(trace, RELIES_ON)
    )
    answer = replace(answer, notes=tuple(_notes(traces)))
    return Result(ANALYSIS, {}, answer, tuple(found)), (before[0], after[0])


def fold(view: View, before: Folded | None) -> Folded:
    """Add up the calls of a stretch."""
    import pandas as pd

    before = before or Folded()
    made = joined(
        *(
            pd.DataFrame(
                {
                    "call": call,
                    "device": table.get("device", ""),
                    "exporter": table["exporter"].fillna(""),
                    "ns": table[f"{call}_ns"],
                }
            )
            for call, table in (
                ("export", view.buffers),
                ("attach", view.attachments),
                ("map", view.mappings),
            )
        )
    )
    failed = view.errors.assign(errors=1).fillna({"device": ""})
    return Folded(
        lengths(before.calls, made, _CALL, "ns"),
        added(before.errors, failed, _ERROR, errors="sum"),
    )


def run(before: Side, after: Side) -> Answer:
    """The tables, from those of two traces."""
    views = (before[0], after[0])
    calls, errors = (
        [joined(getattr(side[1], name)) for side in (before, after)] for name in ("calls", "errors")
    )
    return Answer(
        (
            Table("alive", "Alive at the end", ALIVE_COLUMNS, _alive(views), "none in either"),
            Table("calls", "Calls", CALL_COLUMNS, _calls(calls), "none in either"),
            Table(
                "errors", "Failed calls", ERROR_COLUMNS, _errors(views, errors), "none in either"
            ),
        )
    )


def _both(parts: list[pd.DataFrame], keys: list[str]) -> pd.DataFrame:
    """Two tables side by side by their keys; counts that one has not are NA."""
    a, b = (
        part.set_index(keys).add_suffix(f"_{side}") for part, side in zip(parts, "ab", strict=True)
    )
    joined = a.join(b, how="outer")
    whole: pd.DataFrame = joined.convert_dtypes().reset_index()
    return whole


def _finish(table: pd.DataFrame, verdicts: Any, columns: tuple[Column, ...]) -> pd.DataFrame:
    """With its verdicts, the bad ones first."""
    table = table.assign(verdict=verdicts)
    rank = {verdict: place for place, verdict in enumerate(_ORDER)}
    place = table["verdict"].map(rank).fillna(len(rank))
    return pick(columns, table.iloc[np.argsort(place.to_numpy(), kind="stable")])


def _alive(views: tuple[View, View]) -> pd.DataFrame:
    """Buffers made in the trace that are alive at its end, by where they come from."""
    keys = ["exporter", "name", "comm", "at"]
    parts = []
    for view in views:
        alive = view.buffers[view.buffers["open"] & (view.buffers["origin"] != "before")]
        makers = {key: maker(view.stack(key)) for key in alive["stack"].dropna().unique().tolist()}
        alive = alive.assign(at=alive["stack"].map(makers))
        named = alive.assign(**{key: alive[key].astype(TEXT).fillna("") for key in keys})
        counted = named.groupby(keys).agg(buffers=("id", "size"), size_bytes=("size_bytes", "sum"))
        parts.append(counted.reset_index())
    both = _both(parts, keys).fillna({f"{count}_{side}": 0 for count in _COUNTS for side in "ab"})
    a, b = both["buffers_a"], both["buffers_b"]
    verdicts = np.select(
        [a == 0, b == 0, b > a, b < a], ["new", "gone", "grew", "shrank"], default="same"
    )
    return _finish(both, verdicts, ALIVE_COLUMNS)


_COUNTS: Final = ("buffers", "size_bytes")


def _calls(sides: list[pd.DataFrame]) -> pd.DataFrame:
    """Lengths of calls that succeeded, by call, device and exporter."""
    spent = [times(side, _CALL).rename(columns={"count": "calls"}) for side in sides]
    both = _both([side[[*_CALL, "calls", "p50_ns", "p95_ns"]] for side in spent], _CALL)
    both = both.fillna({f"calls_{side}": 0 for side in "ab"})

    def slower(than: str, by: str) -> pd.Series[bool]:
        p50, p95 = (
            both[f"{part}_ns_{by}"] >= SLOWER * both[f"{part}_ns_{than}"] for part in ("p50", "p95")
        )
        return (p50 & p95).fillna(False).astype(bool)

    verdicts = np.select(
        [
            both["calls_a"] == 0,
            both["calls_b"] == 0,
            both[["calls_a", "calls_b"]].min(axis="columns") < ENOUGH,
            slower(than="a", by="b"),
            slower(than="b", by="a"),
        ],
        ["new", "gone", "too few", "slower", "faster"],
        default="same",
    )
    return _finish(both, verdicts, CALL_COLUMNS)


def _errors(views: tuple[View, View], sides: list[pd.DataFrame]) -> pd.DataFrame:
    """Failed calls; more or fewer by their number per second."""
    both = _both(sides, _ERROR).fillna({"errors_a": 0, "errors_b": 0})
    seconds = [max(view.end - view.start, 1) / NS_PER_S for view in views]
    a, b = both["errors_a"] / seconds[0], both["errors_b"] / seconds[1]
    verdicts = np.select(
        [a == 0, b == 0, b >= SLOWER * a, a >= SLOWER * b],
        ["new", "gone", "more", "fewer"],
        default="same",
    )
    return _finish(both, verdicts, ERROR_COLUMNS)


def _notes(traces: dict[str, Trace]) -> Iterator[str]:
    for name, trace in traces.items():
        seconds = (trace.end - trace.start) / NS_PER_S
        yield f"{name} is {trace.path}: {seconds:.3f} s, {count_text(trace.events_read, 'event')}"
    a, b = traces.values()
    for kind in sorted(a.missing.keys() ^ b.missing.keys()):
        blind = "A" if kind in a.missing else "B"
        yield f"{kind} was not observed in {blind}: what rests on it can't be compared"
    if a.filters != b.filters:
        shown = (" ".join(trace.filters) or "nothing left out" for trace in (a, b))
        yield "filtered differently: A {}, B {}".format(*shown)


ANALYSIS: Final = Analysis(
    name="diff",
    question="What grew, what is new, what got slower?",
    needs=NEEDS,
    relies_on=RELIES_ON,
    run=run,
)
