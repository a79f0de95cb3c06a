# SPDX-License-Identifier: Apache-2.0
"""Tables for other tools, read back by what others wrote: all rows, types, gaps and texts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

import dmabuf_trace
from dmabuf_trace import gather, trace
from dmabuf_trace.analysis import records
from dmabuf_trace.columns import TABLES
from dmabuf_trace.exports.formats import Request, export
from dmabuf_trace.render.text import printable
from tests.build import KIB, MIB, MS, START, US, Build, Process, S

ADDRESSES: Final = ("object", "value", "aux", "address", "device_address", "sgt", "file", "table")
"""Columns of 64 bits without a sign."""
NASTY: Final = "\x1b[2J\u202e;,\"<b>\n\r&'|`"


def rich(tmp_path: Path, comm: str = "app", name: str = "frame", exporter: str = "system") -> Path:
    """A recording with something in every table."""
    k = Build(process=Process(100, comm))
    k.holding(k.existing(size=KIB, exporter="drm"), fd=9)
    k.snapshot("start")
    k.probed("map", "system_heap_map_dma_buf [system_heap]")
    buffer = k.export(size=MIB, exporter=exporter, fd=3, dur=US)
    k.name(buffer, name)
    k.mmap(buffer)
    k.wait(MS)
    attachment = k.attach(buffer, "vivid-000", dur=2 * US)
    k.attach(buffer, "csi", driver="", bus="", errno=16)
    k.lock_wait(buffer, US)
    k.operation(buffer, "map", 3 * US)
    mapping = k.map(attachment, dur=5 * US)
    k.begin(buffer)
    k.end(buffer)
    k.pin(attachment)
    k.vmap(buffer)
    k.move(buffer)
    k.wait(MS)
    k.unmap(mapping)
    k.mark("half", 3)
    k.lose("export", "ring_full", 2)
    return k.write(tmp_path / "x.dbt")


def written(path: Path, to: str, table: str = "events") -> Path:
    out = path.with_name(f"{table}.{to}")
    export(Request(path, to, out, table=table, force=True))
    return out


def read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix == ".arrow":
        return pa.ipc.open_file(path).read_all()
    return pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            column_types=dict.fromkeys(ADDRESSES, pa.uint64()),
        ),
    )


def rows(path: Path) -> list[dict[str, Any]]:
    """Of any format."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    found: list[dict[str, Any]] = read(path).to_pylist()
    return found


@pytest.mark.parametrize("to", ["parquet", "arrow", "csv", "jsonl"])
@pytest.mark.parametrize("table", TABLES)
def test_every_row_and_gap_of_every_table(tmp_path: Path, table: str, to: str) -> None:
    path = rich(tmp_path)
    frame: pd.DataFrame = getattr(dmabuf_trace.open(path), table)
    assert len(frame)

    assert rows(written(path, to, table)) == records(frame)


@pytest.mark.parametrize("to", ["parquet", "arrow"])
@pytest.mark.parametrize("table", TABLES)
def test_types_are_those_of_the_tables(tmp_path: Path, table: str, to: str) -> None:
    path = rich(tmp_path)
    full = read(written(path, to, table)).schema
    empty = read(written(Build().write(tmp_path / "empty.dbt", cut=True), to, table)).schema

    assert full.equals(empty)
    assert full.names == list(TABLES[table])
    times = [field for field in full if field.name.endswith("_ns") or field.name in ("ts", "begin")]
    assert {field.type for field in times} <= {pa.int64()}
    frame: pd.DataFrame = getattr(dmabuf_trace.open(path), table)
    for field in full:
        assert field.metadata[b"description"].decode() == TABLES[table][field.name]
        if not field.nullable:
            assert frame[field.name].notna().all()
        assert field.nullable == (
            str(frame[field.name].dtype)[0] in "IFs" or "boolean" in str(frame[field.name].dtype)
        )


@pytest.mark.parametrize("to", ["parquet", "arrow"])
def test_the_schema_tells_of_the_recording(tmp_path: Path, to: str) -> None:
    told = json.loads(read(written(rich(tmp_path), to)).schema.metadata[b"dmabuf_trace"])

    assert len(told["id"]) == 16
    assert told["table"] == "events"
    assert told["hostname"] == "board"
    assert told["clock"] == "CLOCK_MONOTONIC"
    assert told["start_ns"] == START
    assert told["began_realtime_ns"] == 1_760_000_000 * S
    assert told["losses"] == {"export": {"ring_full": 2}}
    assert [row["count"] for row in told["quality"] if row["what"] == "loss"] == [2]


@pytest.mark.parametrize("to", ["arrow", "jsonl"])
def test_stretch_by_stretch_it_is_the_same(
    tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = Build()
    for _ in range(20):
        buffer = k.export()
        k.wait(US)
        k.unmap(k.map(k.attach(buffer)))
        k.wait(US)
        k.release(buffer)
    monkeypatch.setattr(gather, "PACKED_EVENTS", 1)
    path = k.write(tmp_path / "long.dbt")
    export(Request(path, to, tmp_path / "whole", table="all"))
    monkeypatch.setattr(trace, "STRETCH_EVENTS", 20)
    assert sum(1 for _ in trace.stretches(path)) > 3
    export(Request(path, to, tmp_path / "parts", table="all"))

    for table, columns in TABLES.items():
        by = next((name for name in ("id", "ts", "begin") if name in columns), "what")
        whole, parts = (
            sorted(rows(tmp_path / of / f"{table}.{to}"), key=lambda row: row[by])
            for of in ("whole", "parts")
        )
        assert parts == whole


def test_an_empty_text_is_no_gap_in_csv(tmp_path: Path) -> None:
    lines = written(rich(tmp_path), "csv", "buffers").read_text().splitlines()

    assert lines[0] == ",".join(TABLES["buffers"])
    assert lines[1].startswith('1,41,"drm","",1024,,')  # no name, its export was not seen
    assert lines[2].startswith(f'2,42,"system","frame",1048576,{START},')


@pytest.mark.parametrize("text", [NASTY, "=1+1", "@x", "-x", "+1", "\ufeff", " ", '"'])
def test_csv_harms_neither_terminal_nor_spreadsheet(tmp_path: Path, text: str) -> None:
    path = rich(tmp_path, comm=text, name=text, exporter=text)
    shown = printable(dmabuf_trace.open(path).buffers["name"][1])
    if shown[0] in "=+-@":
        shown = f"\\x{ord(shown[0]):02x}{shown[1:]}"

    content = written(path, "csv", "buffers").read_text()

    assert content.isascii()
    assert content.replace("\n", "").isprintable()
    (_, row) = csv.DictReader(io.StringIO(content))
    assert (row["name"], row["comm"], row["exporter"]) == (shown, shown, shown)
    frame = pd.read_csv(io.StringIO(content), keep_default_na=False)
    assert frame["name"].tolist() == ["", shown]


@pytest.mark.parametrize("to", ["parquet", "arrow", "jsonl"])
@pytest.mark.parametrize("text", [NASTY, "=1+1"])
def test_texts_are_exact_where_nobody_acts_on_them(tmp_path: Path, text: str, to: str) -> None:
    path = rich(tmp_path, comm=text, name=text, exporter=text)
    name = dmabuf_trace.open(path).buffers["name"][1]

    file = written(path, to, "buffers")

    assert [row["name"] for row in rows(file)] == ["", name]
    if to == "jsonl":
        assert file.read_bytes().isascii()
        assert "\x1b" not in file.read_text()


def test_a_lone_surrogate_of_a_hostile_file_is_escaped(tmp_path: Path) -> None:
    k = Build()
    k.mark("\ud800")
    path = k.write(tmp_path / "x.dbt")

    for to in ("parquet", "arrow", "jsonl", "csv"):
        assert [row["label"] for row in rows(written(path, to, "marks"))] == ["\\ud800"]


def test_a_window_of_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(Request(rich(tmp_path), "jsonl", out, table="events", window=(MS, 2 * MS)))

    assert {json.loads(line)["ts"] for line in out.read_text().splitlines()} == {START + MS}
