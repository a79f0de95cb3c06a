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

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dmabuf_trace.analysis import Analysis, Answer, Column, Param, Table, View, frame, pick, records
from dmabuf_trace.units import count_text

if TYPE_CHECKING:
    import pandas as pd

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

PIDS: Final = 1 << 32
"""More than there can be."""

UNSEEN: Final = "(export not seen)"


def run(view: View, *, exporter: str) -> Answer:
    """See the module's description."""
    buffers = view.buffers.set_index("id")[["exporter", "size_bytes", "open", "pid", "begin"]]
    buffers["from_process"] = _process(view, buffers["pid"], buffers.pop("begin"))
    buffers = buffers.rename(columns={"pid": "from_pid"})
    if exporter:
        buffers = buffers[buffers["exporter"] == exporter]
    processes = _processes(view, buffers)
    devices = _devices(view, buffers)
    tree = frame(TREE_COLUMNS, list(_tree(buffers, processes, devices)))
    tables = (
        Table("tree", "Who has whose buffers", TREE_COLUMNS, tree, "none"),
        Table("processes", "Processes", PROCESS_COLUMNS, pick(PROCESS_COLUMNS, processes)),
        Table("devices", "Devices", DEVICE_COLUMNS, pick(DEVICE_COLUMNS, devices)),
    )
    return Answer(tables, tuple(_notes(view)))


def _sums(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Buffers, their bytes, and how many are open: a row of ``rows`` is one buffer of a group."""
    groups = rows.groupby(by, dropna=False)
    return groups.agg(
        buffers=("open", "size"), size_bytes=("size_bytes", "sum"), open=("open", "sum")
    )


def _process(view: View, pids: pd.Series[int], times: pd.Series[int]) -> pd.Series[int]:
    """A number for each process that had a pid at a time: the pid, and above it how often forks
    had made a process of that pid by then. NA without a pid."""
    import pandas as pd

    forked = view.fds.loc[view.fds["origin"] == "fork", ["pid", "begin"]]
    births = forked.drop_duplicates().astype("int64").sort_values("begin")
    births["life"] = births.groupby("pid").cumcount() + 1
    asked = pd.DataFrame({"pid": pids, "begin": times, "row": np.arange(len(pids))})
    known = asked[asked.notna().all(axis=1)].astype("int64").sort_values("begin")
    found = pd.merge_asof(known, births, on="begin", by="pid").set_index("row")
    process = found["pid"] + found["life"].fillna(0).astype("int64") * PIDS
    numbered: pd.Series[int] = (
        process.reindex(range(len(pids))).astype("Int64").set_axis(pids.index)
    )
    return numbered


def _uses(view: View) -> pd.DataFrame:
    """What each process did with each buffer: counts, by ``buffer_id`` and ``process``."""
    import pandas as pd

    fds, held = view.fds, view.holders
    at_end = held["when"] == "end"

    def did(
        ids: pd.Series[int], pid: pd.Series[int], at: pd.Series[int], **counts: pd.Series[bool]
    ) -> pd.DataFrame:
        process = _process(view, pid, at)
        uses = {"buffer_id": ids, "process": process, **dict.fromkeys(COUNTS, 0), **counts}
        return pd.DataFrame(uses)[ids.notna() & process.notna()].astype("int64")

    origin = {name: (fds["origin"] == how).fillna(False) for name, how in ORIGINS.items()}
    is_vma = held["fd"].isna()
    uses = pd.concat(
        [
            did(view.buffers["id"], view.buffers["pid"], view.buffers["begin"]),
            did(
                fds["buffer_id"],
                fds["pid"].fillna(fds["closed_by"]),
                fds["begin"].fillna(fds["end"]),
                **origin,
            ),
            did(
                view.vmas["buffer_id"],
                view.vmas["pid"],
                view.vmas["begin"],
                mmaps=view.vmas["begin"].notna(),
            ),
            did(
                held["buffer_id"],
                held["pid"],
                held["ts"],
                fds_held=at_end & ~is_vma,
                vmas_held=at_end & is_vma,
            ),
        ]
    )
    return uses.groupby(["buffer_id", "process"]).sum().reset_index()


def _names(view: View) -> pd.Series[str]:
    """Names by process, of all that it had the last one."""
    import pandas as pd

    tables = (view.fds, view.vmas, view.buffers)
    threads = pd.concat([table[["pid", "tid", "comm", "begin"]] for table in tables])
    threads = threads[threads["pid"].notna()].sort_values("begin", ascending=False)
    own = threads["tid"] == threads["pid"]
    looks = view.holders[["pid", "comm", "ts"]][::-1].rename(columns={"ts": "begin"})
    found = pd.concat([looks, threads[own], threads[~own]], ignore_index=True)
    named = found.assign(process=_process(view, found["pid"], found["begin"]))
    first = named.astype({"process": "int64"}).drop_duplicates("process")
    return first.set_index("process")["comm"].astype("string")


def _processes(view: View, buffers: pd.DataFrame) -> pd.DataFrame:
    """Exporting processes first, then those that got their buffers."""
    import pandas as pd

    uses = _uses(view).join(buffers.drop(columns="open"), on="buffer_id", how="inner")
    uses["open"] = uses[HELD].any(axis="columns")
    key = ["exporter", "from_process", "process"]
    sums = _sums(uses, key).join(uses.groupby(key, dropna=False)[COUNTS].sum())
    rows = sums.reset_index().astype(dict.fromkeys([*COUNTS, "open"], "Int64"))
    for name, kinds in OBSERVED_BY.items():
        if not view.missing.keys().isdisjoint(kinds):
            rows[name] = pd.NA
    if view.looked_at is None:
        rows[[*HELD, "open"]] = pd.NA
    names = _names(view)
    for whose in ("", "from_"):
        processes = rows[f"{whose}process"]
        rows[f"{whose}comm"] = names.reindex(processes.fillna(0).astype("int64")).array
        rows[f"{whose}pid"] = processes % PIDS
    rows["got"] = (rows["process"] != rows["from_process"]).fillna(True)
    order = ["exporter", "from_pid", "from_process", "got", "pid", "process"]
    return rows.sort_values(order)


def _devices(view: View, buffers: pd.DataFrame) -> pd.DataFrame:
    key = ["exporter", "device", "driver", "bus"]
    columns = ["buffer_id", "device", "driver", "bus", "open"]
    rows = view.attachments.loc[view.attachments["buffer_id"].notna(), columns]
    known = rows.astype({"buffer_id": "int64"}).groupby(columns[:-1])["open"]
    each = known.agg(["size", "any"]).set_axis(["attachments", "open"], axis="columns")
    each = each.reset_index().join(buffers.drop(columns="open"), on="buffer_id", how="inner")
    return _sums(each, key).join(each.groupby(key)["attachments"].sum()).reset_index()


def _tree(buffers: pd.DataFrame, processes: pd.DataFrame, devices: pd.DataFrame) -> Iterator[Row]:
    """Each exporter, whose processes exported its buffers, who got those, its devices."""
    unseen = _sums(buffers[buffers["from_pid"].isna()], ["exporter"]).reset_index()
    for total in records(_sums(buffers, ["exporter"]).reset_index()):
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
        yield {**row, "who": f"{indent}{row['comm'] or 'pid'}-{row['pid']}", "role": role}


def _notes(view: View) -> Iterator[str]:
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
    if strays := int(view.attachments["buffer_id"].isna().sum()):
        yield f"{count_text(strays, 'attachment')} of unknown buffers: left out"


ANALYSIS = Analysis(
    name="sharing",
    question="Who passed what to whom?",
    needs=("buffers", "attachments", "fds", "vmas", "holders"),
    relies_on=("export", "fd_install", "fork", "mmap", "attach", "detach"),
    run=run,
    params=(Param("exporter", "text", "", "only buffers of this exporter"),),
)
