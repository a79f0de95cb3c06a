# SPDX-License-Identifier: Apache-2.0
"""What an analysis is: one question, the tables that it needs, its parameters, a typed result.

Owns the registry, which walks the package ``dmabuf_trace.analyses``: a module there that defines
``ANALYSIS`` is a sub-command and a part of the report, and nothing else names it. Importing this
or an analysis does not import pandas. Must not know probes, files or terminals.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from dmabuf_trace.columns import TEXT
from dmabuf_trace.errors import InputError
from dmabuf_trace.units import count_text, parse_count, parse_duration

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from dmabuf_trace.blocks import SyncFiles
    from dmabuf_trace.extent import Window
    from dmabuf_trace.graph import Graph
    from dmabuf_trace.trace import Trace

    Ints = NDArray[np.int64]

PACKAGE: Final = "dmabuf_trace.analyses"

ColumnKind = Literal[
    "id",
    "text",
    "count",
    "bytes",
    "duration",
    "time",
    "share",
    "rate",
    "ratio",
    "flag",
    "holders",
    "stack",
    "stacks",
]
"""How a column is shown; ``time`` is ns since the trace began, ``rate`` per second, ``ratio`` a
number of one thing per another, ``holders`` a list of holder objects, ``stack`` a list of frames,
innermost first, ``stacks`` a list of those."""

ParamKind = Literal["count", "duration", "text"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result: ``name`` with its unit is the JSON key, ``title`` is for people.

    A ``spare`` column is left out where a terminal is too narrow for all, the last one first.
    """

    name: str
    kind: ColumnKind
    title: str
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that answer a part of the question; ``rows`` has exactly ``columns``."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: pd.DataFrame
    empty: str = ""
    """What to say where there are no rows; "" leaves the table out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an analysis computes: tables, notes on what was not observable, buffers to look at."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    inodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """An answer, with the question and all reasons to doubt it."""

    analysis: Analysis
    params: Mapping[str, Any]
    answer: Answer
    doubts: tuple[str, ...]


_PARSED: Final = {"duration": parse_duration, "count": parse_count}


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: an option ``--name`` of the sub-command; a duration's value is ns.

    "" as a duration or a count is 0.
    """

    name: str
    kind: ParamKind
    default: str
    help: str

    def parse(self, text: str) -> int | str:
        """The value of an option's text."""
        if self.kind == "text":
            return text
        try:
            return _PARSED[self.kind](text) if text else 0
        except InputError as error:
            option = "--" + self.name.replace("_", "-")
            raise InputError(f"{option}: {error}", error.hint) from None


@dataclass(frozen=True, slots=True)
class Shown:
    """One thing that an analysis can find, and what it rests on.

    ``needs`` are names of what it can't be found without: event kinds, or facts of a look at the
    holders (fields of ``SnapshotBlock``). ``hides`` says, of others, what becomes of it without
    them; where nothing is needed, some of them are. ``never``: why no kernel shows it. ``since``,
    ``before``: kernels it is there on.
    """

    name: str
    needs: tuple[str, ...] = ()
    hides: Mapping[str, str] = field(default_factory=dict)
    never: str = ""
    since: tuple[int, int] = (0, 0)
    before: tuple[int, int] = (1 << 16, 0)


@dataclass(frozen=True, slots=True)
class Analysis:
    """One question. ``needs`` are tables, ``relies_on`` the event kinds whose loss spoils it.
    ``shows`` tells its findings apart where they do not all rest on the same, or need all of it.

    Without ``fold``, ``run(view, **params)`` answers from the tables of a whole trace. With it a
    trace may come in stretches: ``fold(view, before, **params)`` is asked of each, ``before`` being
    what it returned of the one ahead (None: of none), and ``run(view, folded, **params)`` of the
    last. What it returns must not grow with the length of a trace.
    """

    name: str
    question: str
    needs: tuple[str, ...]
    relies_on: tuple[str, ...]
    run: Callable[..., Answer]
    fold: Callable[..., Any] | None = None
    params: tuple[Param, ...] = ()
    report_rank: int = 0
    """Place in the report; 0: not part of it."""
    is_list: bool = False
    """It lists what the trace has, so what its ``fold`` returns does grow: of no report."""
    graph: Callable[[Answer], Graph] | None = None
    """The answer as a graph: an option ``--dot`` of the sub-command."""
    shows: tuple[Shown, ...] = ()

    def __call__(self, trace: Trace, **texts: str) -> Result:
        """Ask a whole ``trace``; parameters are texts, as on the command line."""
        asked = Asked(self, **texts)
        asked.take(trace)
        return asked.answer(trace)


class Asked:
    """An analysis that is asked of a trace, stretch by stretch; parameters are texts."""

    def __init__(self, analysis: Analysis, **texts: str) -> None:
        self.analysis = analysis
        self.params = {
            param.name: param.parse(texts.get(param.name, param.default))
            for param in analysis.params
        }
        self._folded: Any = None

    def take(self, trace: Trace) -> None:
        """Take a stretch."""
        if fold := self.analysis.fold:
            self._folded = fold(self._view(trace), self._folded, **self.params)

    def answer(self, trace: Trace) -> Result:
        """Answer, ``trace`` being the last stretch."""
        folded = () if self.analysis.fold is None else (self._folded,)
        answer = self.analysis.run(self._view(trace), *folded, **self.params)
        return Result(self.analysis, self.params, answer, doubts(trace, self.analysis.relies_on))

    def _view(self, trace: Trace) -> View:
        return View(trace, self.analysis.needs)


@dataclass(frozen=True)
class View:
    """The declared tables of a trace, and its facts; asking for more is an error."""

    _trace: Trace
    _needs: tuple[str, ...] = field(default=())

    if TYPE_CHECKING:
        buffers: pd.DataFrame = field(init=False)
        attachments: pd.DataFrame = field(init=False)
        mappings: pd.DataFrame = field(init=False)
        errors: pd.DataFrame = field(init=False)
        holders: pd.DataFrame = field(init=False)
        events: pd.DataFrame = field(init=False)

    def __getattr__(self, name: str) -> pd.DataFrame:
        self._declared(name)
        table: pd.DataFrame = getattr(self._trace, name)
        return table

    def present(self, name: str) -> pd.DataFrame:
        """A table with all rows that were there at some time in the stretch.

        Those that came up in it are ``fresh``. Of a whole trace it is the table.
        """
        self._declared(name)
        return self._trace.present(name)

    def going_on(self, name: str) -> pd.DataFrame:
        """What is open when the stretch ends, and comes up in a later one; none: it is the last."""
        self._declared(name)
        return self._trace.going_on(name)

    def events_of(
        self, *kinds: str, tids: Ints | None = None, inodes: Ints | None = None
    ) -> pd.DataFrame:
        """The events of these kinds: made much faster than all, where they are few.

        With ``tids``, ``inodes``: by these threads, on these buffers alone.
        """
        self._declared("events")
        return self._trace.events_of(*kinds, tids=tids, inodes=inodes)

    def last_calls(self, tids: Ints) -> pd.Series[int]:
        """When each of these threads made a call last, but for those made on its way out."""
        self._declared("events")
        return self._trace.last_calls(tids)

    def lives_of(self, buffer_ids: pd.Series[int]) -> pd.DataFrame:
        """``begin`` and ``end`` of the buffer of each row, of buffers of earlier stretches too."""
        self._declared("buffers")
        return self._trace.lives_of(buffer_ids)

    def _declared(self, name: str) -> None:
        if name not in self._needs:
            raise AttributeError(f"the analysis does not declare that it needs {name!r}")

    @property
    def unsettled(self) -> NDArray[Any]:
        """Ids of the buffers of which more may follow in later stretches, but parts of calls."""
        return self._trace.stretch.unsettled()

    @property
    def is_last(self) -> bool:
        """Whether no stretch follows."""
        return self._trace.stretch.is_last

    @property
    def since(self) -> int:
        """When the stretch began, ns."""
        return self._trace.since

    @property
    def until(self) -> int:
        """When the stretch ended, ns."""
        return self._trace.until

    @property
    def start(self) -> int:
        """When the trace began, ns."""
        return self._trace.start

    @property
    def end(self) -> int:
        """When the trace ended, ns."""
        return self._trace.end

    @property
    def release(self) -> str | None:
        """Of the kernel, as 6.12.0-amd64; None: not known."""
        host = self._trace.header.get("host")
        release = host.get("release") if isinstance(host, dict) else None
        return release if isinstance(release, str) else None

    @property
    def looked_at(self) -> int | None:
        """When the holders were looked up at the end, ns; None: they were not."""
        snapshot = self._trace.snapshots.get("end")
        return snapshot.ts if snapshot else None

    @property
    def unreadable(self) -> int:
        """Processes that could not be looked into at the end."""
        snapshot = self._trace.snapshots.get("end")
        return snapshot.unreadable if snapshot else 0

    @property
    def queues(self) -> bool:
        """Whether the queues of sockets were looked into at the end."""
        snapshot = self._trace.snapshots.get("end")
        return snapshot is not None and snapshot.queues

    def sync_files(self, when: str) -> tuple[SyncFiles, ...] | None:
        """Open sync_files of each process at the look ``start`` or ``end``; None: not counted."""
        snapshot = self._trace.snapshots.get(when)
        return snapshot.sync_files if snapshot else None

    @property
    def missing(self) -> dict[str, str]:
        """Event kinds that were not observed, and why."""
        return self._trace.missing

    def empty(self, kinds: tuple[str, ...], otherwise: str) -> str:
        """Why a table has no rows: these event kinds were not observed, or ``otherwise``."""
        unseen = [kind for kind in kinds if kind in self.missing]
        return f"not observed: {', '.join(unseen)}" if unseen else otherwise

    def stack(self, key: object) -> list[str] | None:
        """Frames of a kernel stack, innermost first; None where there is none."""
        frames = self._trace.stacks.get(key) if isinstance(key, int) else None
        return list(frames) if frames else None

    def user_stack(self, key: object) -> list[str] | None:
        """Frames of a user stack, innermost first; None where there is none."""
        frames = self._trace.user_stacks.get(key) if isinstance(key, int) else None
        return list(frames) if frames else None


_DTYPES: Final[dict[ColumnKind, str]] = {
    **dict.fromkeys(("id", "count", "bytes", "duration", "time"), "Int64"),
    "text": TEXT,
    **dict.fromkeys(("share", "rate", "ratio"), "Float64"),
    "flag": "boolean",
}


def frame(columns: tuple[Column, ...], rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a DataFrame with exactly ``columns``, gaps (None, NA, absent) as NA."""
    import pandas as pd

    return pd.DataFrame(
        {
            column.name: pd.Series(
                [row.get(column.name) for row in rows], dtype=_DTYPES.get(column.kind, "object")
            )
            for column in columns
        }
    )


def pick(columns: tuple[Column, ...], table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a table that a result shows, for any number of rows."""
    dtypes = {each.name: _DTYPES[each.kind] for each in columns if each.kind in _DTYPES}
    return table[[column.name for column in columns]].astype(dtypes).reset_index(drop=True)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts of plain values, gaps as None: for tables of few rows."""
    plain = table.astype(object).where(table.notna(), None)
    return cast("list[dict[str, Any]]", plain.to_dict("records"))


def doubts(trace: Trace, relies_on: tuple[str, ...]) -> tuple[str, ...]:
    """Why answers that rest on these event kinds may be wrong."""
    quality = trace.quality
    mine = quality[quality["whole_event"] & quality["kind"].isin(relies_on)]
    losses: Counter[str] = Counter()
    for row in records(mine[mine["what"] == "loss"]):
        losses[row["kind"]] += row["count"]
    found = []
    if losses:
        parts = ", ".join(f"{kind} {count:,}" for kind, count in losses.items())
        found.append(f"may be wrong: {count_text(losses.total(), 'event')} lost ({parts})")
    for row in records(mine[mine["what"] == "probe"]):
        reason = row["cause"] or "no reason given"
        found.append(f"may be wrong: {row['kind']} was not observed ({reason})")
    for row in records(mine[mine["what"] == "reconcile"]):
        found.append(f"may be wrong: {row['cause']} ({row['hint']})")
    if trace.cut:
        found.append(f"may be wrong: the recording was cut ({trace.cut.reason})")
    return tuple(found)


def ask(
    path: Path, questions: Sequence[Asked], window: Window | None = None
) -> tuple[Trace, tuple[Result, ...]]:
    """Ask a recording, in stretches where all analyses allow it; its last stretch, and the answers.

    Raises:
        InputError: the file is not a recording that this version reads.
    """
    from dmabuf_trace.trace import stretches

    in_stretches = all(asked.analysis.fold for asked in questions)

    def taken(stretch: Trace) -> Trace | None:
        """Only the last one is kept: the others were there while the next one is read."""
        for asked in questions:
            asked.take(stretch)
        return stretch if stretch.stretch.is_last else None

    (last,) = filter(None, map(taken, stretches(path, window, at_once=not in_stretches)))
    return last, tuple(asked.answer(last) for asked in questions)


def unknown_exporter(wanted: str, known: Collection[str]) -> Iterator[str]:
    """What to say where a buffer's exporter was asked for that none has."""
    if wanted and wanted not in known:
        here = ", ".join(sorted(known)) or "none"
        yield f"no buffer of exporter {wanted}; exporters here: {here}"


@cache
def registry() -> dict[str, Analysis]:
    """Every analysis by name."""
    package = importlib.import_module(PACKAGE)
    modules = (
        importlib.import_module(f"{PACKAGE}.{module.name}")
        for module in pkgutil.iter_modules(package.__path__)
    )
    found = [module.ANALYSIS for module in modules if hasattr(module, "ANALYSIS")]
    return {analysis.name: analysis for analysis in sorted(found, key=lambda each: each.name)}
