# SPDX-License-Identifier: Apache-2.0
"""The file: what goes in comes out, and what is cut or damaged says so."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmabuf_trace import recording, schema
from dmabuf_trace.errors import InputError, OutputError
from dmabuf_trace.recording import (
    Block,
    EndBlock,
    EventBlock,
    Found,
    Holder,
    LossBlock,
    NameBlock,
    Reader,
    SnapshotBlock,
    StackBlock,
    Writer,
)

SNAPSHOT = SnapshotBlock(
    "end",
    7,
    (Found(42, 4096, "system", "na\x1bme"),),
    (Holder(42, 9, "comm", 3), Holder(42, 9, "comm", -1, 0x1000, 4096)),
    1,
)


def events(count: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    rows = np.zeros(count, schema.EVENT_DTYPE)
    rows["ts"] = np.arange(count)
    rows["kind"] = schema.KIND["export"]
    return rows


def write(path: Path) -> Path:
    writer = Writer(path)
    writer.begin({"tool": "test"})
    names = np.zeros(2, schema.NAME_DTYPE)
    names["text"] = [b"system", b"vivid.0"]
    writer.write_names(names)
    writer.write_events(events(3))
    writer.write_losses(np.full(schema.LOSS_SHAPE, 5, np.uint64))
    writer.write_snapshot(SNAPSHOT)
    writer.write_stacks({17: ("dma_buf_export+0x1", "f [mod]")})
    writer.write_events(events(2))
    writer.finish(99, "command ended")
    return path


def read(path: Path) -> tuple[list[Block], Reader]:
    with Reader(path) as reader:
        return list(reader.blocks()), reader


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    blocks, reader = read(write(tmp_path / "a.dbt"))

    assert reader.header == {"schema": schema.VERSION, "tool": "test"}
    assert reader.cut is None
    names, first, losses, snapshot, stacks, second, end = blocks
    assert isinstance(names, NameBlock)
    assert names.names["text"].tolist() == [b"system", b"vivid.0"]
    assert isinstance(first, EventBlock)
    assert first.events.tolist() == events(3).tolist()
    assert isinstance(losses, LossBlock)
    assert (losses.losses == 5).all()
    assert snapshot == SNAPSHOT
    assert stacks == StackBlock({17: ("dma_buf_export+0x1", "f [mod]")})
    assert isinstance(second, EventBlock)
    assert len(second.events) == 2
    assert end == EndBlock(ts=99, events=5, reason="command ended")


def test_a_snapshot_without_the_newer_fields_is_one_of_held_buffers(tmp_path: Path) -> None:
    path = tmp_path / "old.dbt"
    buffer = {"buffer": 42, "size": 4096, "exporter": "system", "name": "n"}
    old = {"when": "end", "ts": 7, "buffers": [buffer], "holders": [], "unreadable": 1}
    writer = Writer(path)
    writer.begin({})
    writer._write(recording._frame(recording.BlockKind.SNAPSHOT, json.dumps(old).encode()))
    writer.finish(9, "")

    (snapshot, _), _ = read(path)

    assert snapshot == SnapshotBlock("end", 7, (Found(42, 4096, "system", "n", -1),), (), 1)
    assert (snapshot.source, snapshot.complete) == ("proc", False)


@pytest.mark.parametrize(("field", "value"), [("source", 1), ("complete", "yes"), ("ts", "1")])
def test_a_snapshot_of_the_wrong_types_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "odd.dbt"
    writer = Writer(path)
    writer.begin({})
    writer.write_snapshot(dataclasses.replace(SNAPSHOT, **{field: value}))
    writer.finish(9, "")

    with pytest.raises(InputError, match="not what it claims to be"):
        read(path)


def test_cut_at_every_byte_it_opens_up_to_the_last_whole_block(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.dbt").read_bytes()
    full, _ = read(tmp_path / "whole.dbt")
    cut = tmp_path / "cut.dbt"
    seen = set()
    refused: list[int] = []
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        try:
            blocks, reader = read(cut)
        except InputError:
            refused.append(length)
            continue
        assert reader.cut is not None
        assert [type(block) for block in blocks] == [type(block) for block in full[: len(blocks)]]
        seen.add(len(blocks))
    assert seen == set(range(len(full)))
    header = len(recording.MAGIC) + recording.BLOCK.size  # without a header there is nothing
    assert refused == list(range(max(refused) + 1))
    assert header < max(refused) < header + 64


def test_a_flipped_bit_is_never_taken_for_data(tmp_path: Path) -> None:
    whole = bytearray(write(tmp_path / "whole.dbt").read_bytes())
    full, _ = read(tmp_path / "whole.dbt")
    bad = tmp_path / "bad.dbt"
    for offset in range(len(whole)):
        damaged = whole.copy()
        damaged[offset] ^= 0x10
        bad.write_bytes(damaged)
        try:
            blocks, reader = read(bad)
        except InputError:
            continue
        if reader.cut is None:  # only padding is not covered: nothing reads it
            assert len(blocks) == len(full)
        else:
            assert len(blocks) < len(full)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, world\n", "is not a dmabuf-trace recording"),
        (recording.MAGIC, "cut or damaged within its header"),
    ],
)
def test_a_file_that_is_no_recording(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Reader(path)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (recording.BlockKind.SNAPSHOT, b"[]"),
        (recording.BlockKind.SNAPSHOT, b'{"when":"end","ts":"late","buffers":[],"holders":[]}'),
        (recording.BlockKind.SNAPSHOT, b"[" * 100_000),
        (recording.BlockKind.STACKS, b'{"1":"frames"}'),
        (recording.BlockKind.END, b'{"ts":1e99,"events":0,"reason":""}'),
        (recording.BlockKind.END, b'{"ts":18446744073709551616,"events":0,"reason":""}'),
        (recording.BlockKind.EVENTS, b"12345"),
        (recording.BlockKind.LOSSES, b"12345678"),
        (recording.BlockKind.HEADER, b"not JSON"),
    ],
)
def test_a_block_that_was_made_up_is_one_clear_line(
    tmp_path: Path, kind: recording.BlockKind, payload: bytes
) -> None:
    path = tmp_path / "crafted.dbt"
    header = recording._frame(recording.BlockKind.HEADER, b'{"schema":1}')
    if kind is recording.BlockKind.HEADER:
        header = b""
    path.write_bytes(recording.MAGIC + header + recording._frame(kind, payload))
    with pytest.raises(InputError, match="not what it claims to be"):
        read(path)


def test_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        Reader(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        Reader(tmp_path / "none.dbt")


def test_a_device_is_refused() -> None:
    with pytest.raises(InputError, match="not a regular file"):
        Reader(Path("/dev/zero"))


def test_a_newer_schema_is_refused_with_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "VERSION", 99)
    path = write(tmp_path / "new.dbt")
    monkeypatch.undo()
    with pytest.raises(
        InputError, match=f"has schema 99, this dmabuf-trace reads up to {schema.VERSION}"
    ):
        Reader(path)


def test_it_is_private_and_replaces_nothing_unasked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dbt")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        Writer(path)
    Writer(path, force=True).discard()
    assert path.read_bytes() == before


def test_force_replaces_the_content_and_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"x" * 10_000)
    path.chmod(0o644)
    writer = Writer(path, force=True)
    writer.begin({})
    writer.finish(1, "done")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read(path)[0] == [EndBlock(1, 0, "done")]


@pytest.mark.parametrize("force", [False, True])
def test_never_through_a_symbolic_link(tmp_path: Path, force: bool) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(OutputError):
        Writer(link, force=force)
    assert target.read_text() == "precious"


def test_an_output_that_cannot_be_created(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        Writer(tmp_path / "none" / "a.dbt")
    with pytest.raises(OutputError, match="is not a regular file"):
        Writer(Path("/dev/null"), force=True)


def test_discard_leaves_nothing_behind(tmp_path: Path) -> None:
    Writer(tmp_path / "a.dbt").discard()
    assert list(tmp_path.iterdir()) == []
