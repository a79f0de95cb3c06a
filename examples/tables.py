# SPDX-License-Identifier: Apache-2.0
"""A question to each table of a recording: ``python -m examples.tables FILE``.

Every function takes a trace and returns the answer as a DataFrame or Series; the tests run them.
:mod:`dmabuf_trace.columns` says what each column means.
"""

from __future__ import annotations

import sys

import pandas as pd

import dmabuf_trace
from dmabuf_trace.trace import Trace

MS = 1_000_000


def buffers(trace: Trace) -> pd.DataFrame:
    """Which exporter has how many bytes alive?"""
    alive = trace.buffers[trace.buffers["open"]]
    return alive.groupby("exporter")["size_bytes"].agg(["count", "sum"])


def attachments(trace: Trace) -> pd.DataFrame:
    """Which attach took longest, and of which buffer was it?"""
    slowest = trace.attachments.nlargest(1, "attach_ns")
    of = trace.buffers.set_index("id").add_prefix("buffer_")
    return slowest.join(of, on="buffer_id")[["device", "attach_ns", "buffer_name", "comm"]]


def mappings(trace: Trace) -> pd.DataFrame:
    """How long does each device keep its mappings, in the median and at most?"""
    return trace.mappings.groupby(["device", "importer"])["age_ns"].agg(["count", "median", "max"])


def pins(trace: Trace) -> pd.DataFrame:
    """What is pinned now, and by whom?"""
    held = trace.pins[trace.pins["open"]]
    return held[["inode", "size_bytes", "device", "comm", "age_ns"]]


def vmaps(trace: Trace) -> pd.DataFrame:
    """Which buffers does the kernel itself have mapped?"""
    return trace.vmaps[trace.vmaps["open"]][["inode", "age_ns"]]


def cpu_accesses(trace: Trace) -> pd.DataFrame:
    """What does a cache sync cost, by the size of the buffer?"""
    spent = trace.cpu_accesses.assign(sync_ns=lambda table: table["begin_ns"] + table["end_ns"])
    return spent.groupby("size_bytes")["sync_ns"].agg(["count", "median", "max"])


def fds(trace: Trace) -> pd.Series[int]:
    """Which process has the most fds of buffers open?"""
    return trace.fds[trace.fds["open"]].groupby("comm").size().sort_values(ascending=False)


def vmas(trace: Trace) -> pd.DataFrame:
    """Who maps how much of which buffer?"""
    return trace.vmas[["comm", "inode", "length_bytes", "size_bytes", "write"]]


def waits(trace: Trace) -> pd.DataFrame:
    """Which calls wait, for what, and how long in all?"""
    return trace.waits.groupby(["call", "kind"])["wait_ns"].agg(["count", "sum", "max"])


def operations(trace: Trace) -> pd.DataFrame:
    """Where does each exporter spend its time?"""
    return trace.operations.groupby(["exporter", "operation"])["operation_ns"].agg(["count", "sum"])


def moves(trace: Trace) -> pd.DataFrame:
    """Which moves found the buffer still mapped?"""
    return trace.moves[trace.moves["mappings"] > 0][["ts", "inode", "mappings", "pins"]]


def errors(trace: Trace) -> pd.Series[int]:
    """What fails, and with which error?"""
    return trace.errors.groupby(["kind", "error"]).size()


def holders(trace: Trace) -> pd.DataFrame:
    """How many buffers does each process hold at the end, by fds and by VMAs?"""
    end = trace.holders[trace.holders["when"] == "end"]
    return end.groupby("comm")[["fd", "start"]].count()


def events(trace: Trace) -> pd.Series[int]:
    """What happened in the first ten milliseconds?"""
    return trace.window(trace.start, trace.start + 10 * MS).events.groupby("kind").size()


def marks(trace: Trace) -> pd.Series[int]:
    """How did the runs of the command end, and how often so?"""
    return trace.marks.loc[trace.marks["label"] == "run", "status"].value_counts()


def probed(trace: Trace) -> pd.DataFrame:
    """From when on is each function of an exporter seen?"""
    return trace.probed[["symbol", "ts"]]


def quality(trace: Trace) -> pd.DataFrame:
    """May anything be missing?"""
    return trace.quality[["what", "kind", "cause", "count"]]


EXAMPLES = (
    *(buffers, attachments, mappings, pins, vmaps, cpu_accesses, fds, vmas),
    *(waits, operations, moves, errors, holders, events, marks, probed, quality),
)


def main() -> None:
    """FILE"""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.tables FILE")
    trace = dmabuf_trace.open(sys.argv[1])
    for example in EXAMPLES:
        print(f"{example.__name__}: {example.__doc__}", example(trace), "", sep="\n")


if __name__ == "__main__":
    main()
