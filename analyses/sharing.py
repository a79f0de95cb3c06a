# SPDX-License-Identifier: Apache-2.0
"""Which processes and devices got the buffers of which exporter, and who exported them.

A process got a buffer by whatever shows that it had it: it exported it, an fd of it was installed
into its table (a socket, dup, F_DUPFD, PRIME and heaps all pass there), put there by dup2 or copied
by the fork that made the process, it mapped it, it closed it, or a look at the processes found it.
A device got one by an attachment. Over which socket a buffer went is not observed. A process is its
pid, named as the last look found it, else as its own thread last was; a fork that was seen makes it
another one than that which had the pid before.

``buffers`` are distinct ones and bytes their sizes, each once; ``open`` are those of them that at
the end are alive (of an exporter), held by fd or VMA (of a process), or attached (of a device).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, frame, pick, records
from dmabuf_trace.graph import Edge, Graph, Node
from dmabuf_trace.measure import added, joined
from dmabuf_trace.processes import PIDS, Births
from dmabuf_trace.units import bytes_text, count_text

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.int64]
Row = dict[str, Any]

_SIZES: Final = (
    Column("buffers", "count", "buffers"),
    Column("size_bytes", "bytes", "size"),
    Column("open", "count", "open now"),
)
TREE_COLUMNS: Final = (
    Column("who", "text", "who"),
    Column("role", "text", "role"),
    *_SIZES,
)
PROCESS_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("from_comm", "text", "exported by"),
    Column("from_pid", "id", "pid"),
    Column("comm", "text", "process"),
    Column("pid", "id", "pid"),
    *_SIZES,
    Column("installed", "count", "fds installed", spare=True),
    Column("dup2", "count", "by dup2", spare=True),
    Column("forked", "count", "by fork", spare=True),
    Column("mmaps", "count", "mmaps", spare=True),
    Column("fds_held", "count", "fds now", spare=True),
    Column("vmas_held", "count", "VMAs now", spare=True),
)
DEVICE_COLUMNS: Final = (
    Column("exporter", "text", "exporter"),
    Column("device", "text", "device"),
    Column("driver", "text", "driver"),
    Column("bus", "text", "bus"),
    Column("attachments", "count", "attachments"),
    *_SIZES,
)
OBSERVED_BY: Final = {
    "installed": ("fd_install",),
    "dup2": ("fd_install",),
    "forked": ("fork", "fd_install"),
    "mmaps": ("mmap", "mmap_importer"),
}
"""Counts of a process, and the event kinds that show them."""
ORIGINS: Final = {"installed": "install", "dup2": "dup2", "forked": "fork"}
HELD: Final = ["fds_held", "vmas_held"]
COUNTS: Final = [*OBSERVED_BY, *HELD]

UNSEEN: Final = "(export not seen)"

_DEVICE: Final = ["device", "driver", "bus"]
_MAKERS: Final = ["exporter", "from_process"]
_SUMS: Final = dict.fromkeys(("buffers", "size_bytes", "open"), "sum")
KEY: Final = 2 * PIDS
"""More than there are processes."""


@dataclass(frozen=True)
class Folded:
    """Sums of the buffers that are over, and what there was so far of those that are not.

    ``buffers`` are settled, but something of them is still open. ``uses`` counts what a process did
    with a buffer, ``attached`` the attachments of a device to one: a ``key`` is the buffer's id
    times :data:`KEY`, and the process or the device's number in ``numbers``.
    """

    made: pd.DataFrame | None = None
    processes: pd.DataFrame | None = None
    devices: pd.DataFrame | None = None
    buffers: pd.DataFrame | None = None
    uses: pd.DataFrame | None = None
    attached: pd.DataFrame | None = None
    numbers: dict[tuple[str, ...], int] = field(default_factory=dict)
    births: Births = field(default_factory=Births)
    names: pd.DataFrame | None = None
    strays: int = 0


def fold(view: View, before: Folded | None, **_: str) -> Folded:
    """Add up what is over."""
    before = before or Folded()
    births = before.births.and_of(view.events_of("fork"))
    who = _processes_of(view, births)
    fresh = view.buffers[["id", "exporter", "size_bytes", "open"]]
    fresh = fresh.assign(
        size_bytes=fresh["size_bytes"].fillna(0), buffers=1, from_process=who["buffers"]
    )
    buffers = joined(before.buffers, fresh)
    is_over = ~buffers["id"].isin(view.unsettled)
    over = buffers[is_over]
    over = over.assign(group=over.groupby(_MAKERS, dropna=False).ngroup())
    by_process, uses = _settled(over, _uses(view, who, before.uses), HELD)
    numbers, attached = _attached(view, before)
    by_device, attached = _settled(over, attached, ["attached"])
    devices = np.array([*numbers, ("",) * 3], object)[by_device["other"]]
    for name, texts in zip(_DEVICE, devices.T, strict=True):
        by_device[name] = texts
    counts = dict.fromkeys(COUNTS, "sum")
    of_device = ["exporter", *_DEVICE]
    return Folded(
        added(before.made, over, _MAKERS, **_SUMS),
        added(before.processes, by_process, [*_MAKERS, "other"], **_SUMS, **counts),
        added(before.devices, by_device, of_device, **_SUMS, attachments="sum"),
        buffers[~is_over],
        uses,
        attached,
        numbers,
        births,
        _names(view, who, before.names),
        before.strays + int(view.attachments["buffer_id"].isna().sum()),
    )


def _ints(column: pd.Series[int]) -> Ints:
    """Integers, gaps as -1."""
    numbers: Ints = np.asarray(column.to_numpy(np.int64, na_value=-1))
    return numbers


def _processes_of(view: View, births: Births) -> dict[str, Ints]:
    """The process of each row of these tables, -1 where it is not known."""
    fds = view.fds
    columns = {
        "buffers": (view.buffers["pid"], view.buffers["begin"]),
        "fds": (fds["pid"].fillna(fds["closed_by"]), fds["begin"].fillna(fds["end"])),
        "vmas": (view.vmas["pid"], view.vmas["begin"]),
        "holders": (view.holders["pid"], view.holders["ts"]),
    }
    return {
        name: births.processes(_ints(pids), _ints(times)) for name, (pids, times) in columns.items()
    }


def _keys(ids: pd.Series[int], others: Ints) -> Ints:
    """See :class:`Folded`; -1 where one of the two is not known."""
    of = _ints(ids)
    keys: Ints = np.where((of < 0) | (others < 0), -1, of * KEY + others)
    return keys


def _counted(
    before: pd.DataFrame | None, columns: list[str], found: Sequence[tuple[str, Ints]]
) -> pd.DataFrame:
    """How often each key was found, by column; what has none ("") is there without a count."""
    import pandas as pd

    parts = [(name, keys[keys >= 0]) for name, keys in found]
    ahead = pd.DataFrame(columns=["key", *columns], dtype="int64") if before is None else before
    codes, keys = pd.factorize(np.concatenate([ahead["key"], *(keys for _, keys in parts)]))
    counts = np.zeros((len(columns), len(keys)), np.int64)
    counts[:, : len(ahead)] = ahead[columns].to_numpy().T  # their keys are distinct
    done = len(ahead)
    for name, mine in parts:
        if name:
            of = codes[done : done + len(mine)]
            counts[columns.index(name)] += np.bincount(of, minlength=len(keys))
        done += len(mine)
    return pd.DataFrame({"key": keys, **dict(zip(columns, counts, strict=True))})


def _settled(
    over: pd.DataFrame, rows: pd.DataFrame, held: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sums of the rows of buffers that are over, by their makers and ``other``; all other rows."""
    import pandas as pd

    at = pd.Index(over["id"]).get_indexer(pd.Index(rows["key"] // KEY))
    is_over = at >= 0
    mine, at = rows[is_over], at[is_over]
    key = over["group"].to_numpy()[at] * KEY + mine["key"].to_numpy() % KEY
    size, is_held = over["size_bytes"].to_numpy(np.int64)[at], mine[held].any(axis="columns")
    each = mine.assign(key=key, buffers=1, size_bytes=size, open=is_held.astype("int64"))
    sums = each.groupby("key").sum().reset_index()
    makers = over.drop_duplicates("group").set_index("group")[_MAKERS]
    found = sums.assign(other=sums["key"] % KEY).join(makers, on=sums.pop("key") // KEY)
    return found, rows[~is_over]


def _uses(view: View, who: dict[str, Ints], before: pd.DataFrame | None) -> pd.DataFrame:
    """What each process did with each buffer that is not over."""
    fds, held = view.fds, view.holders
    by_fd, by_look = (_keys(getattr(view, of)["buffer_id"], who[of]) for of in ("fds", "holders"))
    at_end, is_vma = ((held["when"] == "end").to_numpy(), held["fd"].isna().to_numpy())
    found = [
        ("", _keys(view.buffers["id"], who["buffers"])),
        ("", by_fd[fds["origin"].isna()]),
        *((name, by_fd[(fds["origin"] == how).fillna(False)]) for name, how in ORIGINS.items()),
        ("mmaps", _keys(view.vmas["buffer_id"], who["vmas"])),
        ("", by_look[~at_end]),
        ("fds_held", by_look[at_end & ~is_vma]),
        ("vmas_held", by_look[at_end & is_vma]),
    ]
    return _counted(before, COUNTS, found)


def _attached(view: View, before: Folded) -> tuple[dict[tuple[str, ...], int], pd.DataFrame]:
    """The numbers of devices, and the attachments of each to each buffer that is not over."""
    rows = view.attachments
    groups = rows.groupby(_DEVICE, sort=False)
    numbers = dict(before.numbers)
    devices = list(groups[_DEVICE].head(1).itertuples(index=False, name=None))
    for device in devices:
        numbers.setdefault(device, len(numbers))
    of = np.array([numbers[device] for device in devices], np.int64)[groups.ngroup()]
    keys = _keys(rows["buffer_id"], of)
    found = [("attachments", keys), ("attached", keys[rows["open"]])]
    return numbers, _counted(before.attached, ["attachments", "attached"], found)


def _names(view: View, who: dict[str, Ints], before: pd.DataFrame | None) -> pd.DataFrame:
    """Names by process: of a look, else of its own thread, else of another; of these the last."""
    held = view.holders
    parts = [_last(held["comm"], who["holders"], _ints(held["ts"]), 0)]
    for name in ("fds", "vmas", "buffers"):
        table: pd.DataFrame = getattr(view, name)
        pid, begin = _ints(table["pid"]), _ints(table["begin"])
        is_own = pid == _ints(table["tid"])
        for rank, is_mine in ((1, is_own), (2, ~is_own)):
            mine = np.where(is_mine & (pid >= 0), who[name], -1)
            parts.append(_last(table["comm"], mine, begin, rank))
    found = joined(before, *parts)
    found = found.sort_values(["rank", "ts", "comm"], ascending=[True, False, True])
    return found.drop_duplicates("process")


def _last(comm: pd.Series[str], processes: Ints, ts: Ints, rank: int) -> pd.DataFrame:
    """The last name of each process."""
    import pandas as pd

    codes, distinct = pd.factorize(processes)
    latest = np.full(len(distinct), -1)
    np.maximum.at(latest, codes, ts)
    rows = np.flatnonzero((ts == latest[codes]) & (processes >= 0))
    found = {"process": processes[rows], "rank": rank, "ts": ts[rows], "comm": comm.array[rows]}
    return pd.DataFrame(found).drop_duplicates()


def run(view: View, folded: Folded, *, exporter: str) -> Answer:
    """See the module's description."""
    parts = (joined(each) for each in (folded.made, folded.processes, folded.devices))
    made, processes, devices = (
        part[part["exporter"] == exporter] if exporter else part for part in parts
    )
    processes = _processes(view, processes, folded)
    tree = frame(TREE_COLUMNS, list(_tree(made, processes, devices)))
    tables = (
        Table("tree", "Who has whose buffers", TREE_COLUMNS, tree, "none"),
        Table("processes", "Processes", PROCESS_COLUMNS, pick(PROCESS_COLUMNS, processes)),
        Table("devices", "Devices", DEVICE_COLUMNS, pick(DEVICE_COLUMNS, devices)),
    )
    return Answer(tables, tuple(_notes(view, folded.strays)))


def _processes(view: View, sums: pd.DataFrame, folded: Folded) -> pd.DataFrame:
    """Exporting processes first, then those that got their buffers."""
    import pandas as pd

    rows = sums.rename(columns={"other": "process"})
    rows = rows.astype(dict.fromkeys([*COUNTS, "open"], "Int64"))
    for name, kinds in OBSERVED_BY.items():
        if not view.missing.keys().isdisjoint(kinds):
            rows[name] = pd.NA
    if view.looked_at is None:
        rows[[*HELD, "open"]] = pd.NA
    names = joined(folded.names).set_index("process")["comm"]
    for whose in ("", "from_"):
        processes = rows[f"{whose}process"]
        rows[f"{whose}comm"] = names.reindex(processes).array
        pids = pd.Series(folded.births.pids_of(_ints(processes)), rows.index, "Int64")
        rows[f"{whose}pid"] = pids.mask(processes < 0)
    rows["got"] = rows["process"] != rows["from_process"]
    order = ["exporter", "from_pid", "from_process", "got", "pid", "process"]
    return rows.sort_values(order)


def _tree(made: pd.DataFrame, processes: pd.DataFrame, devices: pd.DataFrame) -> Iterator[Row]:
    """Each exporter, whose processes exported its buffers, who got those, its devices."""
    unseen = made[made["from_process"] < 0]
    for total in records(added(None, made, ["exporter"], **_SUMS)):
        exporter = total["exporter"]
        yield {**total, "who": exporter, "role": "exporter"}
        mine = processes[processes["exporter"] == exporter]
        yield from _branch(mine[mine["from_pid"].notna()])
        for row in records(unseen[unseen["exporter"] == exporter]):
            yield {**row, "who": f"  {UNSEEN}", "role": None, "open": None}
        yield from _branch(mine[mine["from_pid"].isna()])
        for row in records(devices[devices["exporter"] == exporter]):
            yield {**row, "who": f"  {row['device']}", "role": "device"}


def _branch(processes: pd.DataFrame) -> Iterator[Row]:
    for row in records(processes):
        indent, role = ("    ", "got") if row["got"] else ("  ", "exported")
        yield {**row, "who": indent + _name(row["comm"], row["pid"]), "role": role}


def _name(comm: str | None, pid: int) -> str:
    return f"{comm or 'pid'}-{pid}"


def _notes(view: View, strays: int) -> Iterator[str]:
    if view.looked_at is None:
        yield "the processes were not looked into at the end: what they hold now is not known"
    elif view.unreadable:
        processes = count_text(view.unreadable, "process", "processes")
        yield f"{processes} could not be looked into: a buffer may be held there, unseen"
    kinds = dict.fromkeys(kind for kinds in OBSERVED_BY.values() for kind in kinds)
    for kind in kinds:
        if kind in view.missing:
            reason = view.missing[kind] or "no reason given"
            yield f"{kind} was not observed ({reason}): processes may have got buffers unseen"
    if strays:
        yield f"{count_text(strays, 'attachment')} of unknown buffers: left out"


def graph(answer: Answer) -> Graph:
    """From each exporter to who exported its buffers and to devices, from those to who got them."""
    tree, processes, devices = (records(table.rows) for table in answer.tables)
    exporters = {
        row["who"]: Node("exporter", (row["who"], _sizes(row)))
        for row in tree
        if row["role"] == "exporter"
    }
    edges = []
    for row in processes:
        process, source = _node(row["comm"], row["pid"]), exporters[row["exporter"]]
        lines: tuple[str, ...] = (_sizes(row),)
        if row["from_pid"] is None:
            lines = (*lines, UNSEEN)
        elif (maker := _node(row["from_comm"], row["from_pid"])) != process:
            source, lines = maker, (row["exporter"], *lines)
        edges.append(Edge(source, process, lines))
    for row in devices:
        names = (row[name] for name in _DEVICE)
        device = Node("device", tuple(name for name in names if name))
        edges.append(Edge(exporters[row["exporter"]], device, (_sizes(row),)))
    return Graph(tuple(exporters.values()), tuple(edges))


def _node(comm: str | None, pid: int) -> Node:
    return Node("process", (_name(comm, pid),))


def _sizes(row: Row) -> str:
    return f"{count_text(row['buffers'], 'buffer')}, {bytes_text(row['size_bytes'])}"


ANALYSIS = Analysis(
    name="sharing",
    question="Who passed what to whom?",
    needs=("buffers", "attachments", "fds", "vmas", "holders", "events"),
    relies_on=("export", "fd_install", "fork", "mmap", "attach", "detach"),
    run=run,
    fold=fold,
    params=(Param("exporter", "text", "", "only buffers of this exporter"),),
    graph=graph,
)
