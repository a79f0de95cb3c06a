# SPDX-License-Identifier: Apache-2.0
"""The file: what goes in comes out, and what is cut or damaged says so."""

from __future__ import annotations

import dataclasses
import io
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmabuf_trace import framing, schema
from dmabuf_trace.blocks import (
    Block,
    BlockKind,
    BuildBlock,
    CgroupBlock,
    EndBlock,
    EventBlock,
    Found,
    Holder,
    LossBlock,
    Mark,
    NameBlock,
    ProbedBlock,
    SnapshotBlock,
    StackBlock,
    SyncFiles,
    UserStackBlock,
)
from dmabuf_trace.errors import InputError, OutputError
from dmabuf_trace.gather import BURST_EVENTS, WAIT_NS
from dmabuf_trace.recording import Reader, Writer
from tests.bench.generate import Generator
from tests.build import Build

SNAPSHOT = SnapshotBlock(
    "end",
    7,
    (Found(42, 4096, "system", "na\x1bme"),),
    (Holder(42, 9, "comm", 3), Holder(42, 9, "comm", -1, 0x1000, 4096)),
    1,
    sync_files=(SyncFiles(9, "comm", 2),),
)


SECOND = 1_000_000_000


def events(count: int, begin: int = 0) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    rows = np.zeros(count, schema.EVENT_DTYPE)
    rows["ts"] = begin + np.arange(count)
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
    writer.write_builds({"": "0123ab", "mod": "45cd"})
    writer.write_user_stacks(UserStackBlock({3: ("main+0x1 [app]",)}, "no library", 2))
    writer.write_events(events(2))
    writer.write_mark(Mark(98, "r\x1bun", 7))
    writer.finish(99, "command ended")
    return path


MIXED = (
    events(5),
    events(BURST_EVENTS, 5),
    events(5, SECOND),
    events(BURST_EVENTS, SECOND + 5),
    events(7, 2 * SECOND),
)


def write_mixed(path: Path) -> Path:
    """Packed, as it is, packed, and again: in the order in which the events came."""
    with Writer(path) as writer:
        writer.begin({})
        for batch in MIXED:
            writer.write_events(batch)
        writer.finish(9, "")
    return path


def read(path: Path) -> tuple[list[Block], Reader]:
    with Reader(path) as reader:
        return list(reader.blocks()), reader


def test_cgroups_and_late_probes_come_back(tmp_path: Path) -> None:
    k = Build()
    k.cgroup(7, "/system.slice/a b")
    k.probed("map", "vgem:vgem_map")
    k.probed("pin", "0xffffffff81000000", "the kernel has no function that can be probed")

    with Reader(k.write(tmp_path / "x.dbt")) as reader:
        blocks = list(reader.blocks())

    assert CgroupBlock({7: "/system.slice/a b"}) in blocks
    rows = [block.probed[0] for block in blocks if isinstance(block, ProbedBlock)]
    assert [(row.operation, row.symbol, bool(row.reason)) for row in rows] == [
        ("map", "vgem:vgem_map", False),
        ("pin", "0xffffffff81000000", True),
    ]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    blocks, reader = read(write(tmp_path / "a.dbt"))

    assert reader.header == {"schema": schema.VERSION, "tool": "test"}
    assert reader.cut is None
    names, losses, first, snapshot, stacks, builds, user_stacks, second, mark, end = blocks
    assert isinstance(names, NameBlock)
    assert names.names["text"].tolist() == [b"system", b"vivid.0"]
    assert isinstance(first, EventBlock)
    assert first.events.tolist() == events(3).tolist()
    assert isinstance(losses, LossBlock)
    assert (losses.losses == 5).all()
    assert snapshot == SNAPSHOT
    assert stacks == StackBlock({17: ("dma_buf_export+0x1", "f [mod]")})
    assert builds == BuildBlock({"": "0123ab", "mod": "45cd"})
    assert user_stacks == UserStackBlock({3: ("main+0x1 [app]",)}, "no library", 2)
    assert isinstance(second, EventBlock)
    assert len(second.events) == 2
    assert mark == Mark(98, "r\x1bun", 7)
    assert end == EndBlock(ts=99, events=5, reason="command ended")


def test_losses_of_fewer_causes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.dbt"
    with Writer(path) as writer:
        writer.begin({})
        writer.write_losses(np.full((schema.KIND_SLOTS, 8), 3, np.uint64))
    (block,), _ = read(path)

    assert isinstance(block, LossBlock)
    assert block.losses.shape == schema.LOSS_SHAPE
    assert block.losses.sum() == schema.KIND_SLOTS * 8 * 3


def test_a_snapshot_without_the_newer_fields_is_one_of_held_buffers(tmp_path: Path) -> None:
    path = tmp_path / "old.dbt"
    buffer = {"buffer": 42, "size": 4096, "exporter": "system", "name": "n"}
    holder = {"buffer": 42, "pid": 9, "comm": "c", "fd": 3, "start": 0, "length": 0}
    old = {"when": "end", "ts": 7, "buffers": [buffer], "holders": [holder], "unreadable": 1}
    writer = Writer(path)
    writer.begin({})
    writer._write_block(BlockKind.SNAPSHOT, json.dumps(old).encode())
    writer.finish(9, "")

    (snapshot, _), _ = read(path)

    held = (Holder(42, 9, "c", 3),)
    assert snapshot == SnapshotBlock("end", 7, (Found(42, 4096, "system", "n", -1),), held, 1)
    assert (snapshot.source, snapshot.complete, snapshot.queues) == ("proc", False, False)
    assert snapshot.sync_files is None


@pytest.mark.parametrize(("field", "value"), [("source", 1), ("complete", "yes"), ("ts", "1")])
def test_a_snapshot_of_the_wrong_types_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "odd.dbt"
    writer = Writer(path)
    writer.begin({})
    writer.write_snapshot(dataclasses.replace(SNAPSHOT, **{field: value}))
    writer.finish(9, "")

    with pytest.raises(InputError, match="not what it claims to be"):
        read(path)


def layout(whole: bytes) -> list[tuple[int, int, int]]:
    """Of each block of a file: its kind, and where its payload and where the block end."""
    file = io.BytesIO(whole)
    file.seek(len(framing.MAGIC))
    found = []
    begin = file.tell()
    while isinstance(block := framing.read(file), tuple):
        kind, payload = block
        found.append((kind, begin + framing.BLOCK.size + len(payload), file.tell()))
        begin = file.tell()
    return found


def test_packed_events_and_others_may_take_turns(tmp_path: Path) -> None:
    path = write_mixed(tmp_path / "mixed.dbt")

    blocks, reader = read(path)

    raw, packed = BlockKind.EVENTS, BlockKind.PACKED_EVENTS
    header, end = BlockKind.HEADER, BlockKind.END
    kinds = [kind for kind, _, _ in layout(path.read_bytes())]
    assert kinds == [header, packed, raw, packed, raw, packed, end]
    assert reader.cut is None
    found = [block.events for block in blocks if isinstance(block, EventBlock)]
    for part, batch in zip(found, MIXED, strict=True):
        assert part.tobytes() == batch.tobytes()
    assert blocks[-1] == EndBlock(9, sum(map(len, MIXED)), "")


def test_no_events_make_no_block(tmp_path: Path) -> None:
    with Writer(tmp_path / "none.dbt") as writer:
        writer.begin({})
        writer.write_events(events(0))
        writer.finish(9, "")
    assert read(tmp_path / "none.dbt")[0] == [EndBlock(9, 0, "")]


def test_an_empty_block_of_events_is_no_event(tmp_path: Path) -> None:
    with Writer(tmp_path / "empty.dbt") as writer:
        writer.begin({})
        writer._write_block(BlockKind.EVENTS, b"")
        writer.finish(9, "")
    (block, _), reader = read(tmp_path / "empty.dbt")
    assert isinstance(block, EventBlock)
    assert len(block.events) == 0
    assert reader.cut is None


def test_events_that_wait_are_written_when_due_and_when_it_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "waits.dbt"
    with Writer(path) as writer:
        writer.begin({})
        writer.write_events(events(3))
        assert read(path)[0] == []
        writer.write_due(WAIT_NS)
        assert len(read(path)[0]) == 1
        writer.write_events(events(4))
    first, second = (block for block in read(path)[0] if isinstance(block, EventBlock))
    assert (len(first.events), len(second.events)) == (3, 4)


def test_cut_at_every_byte_a_mixed_file_gives_all_whole_blocks(tmp_path: Path) -> None:
    whole = write_mixed(tmp_path / "mixed.dbt").read_bytes()
    cut = tmp_path / "cut.dbt"
    counts = []
    ends = [end for _, _, end in layout(whole)]
    # a burst is tens of kilobytes of the same: its ends, and every 97th byte between them
    around = [length for end in ends for length in range(end - 40, end + 40)]
    lengths = {*around, *range(ends[0], len(whole), 97)}
    for length in sorted(n for n in lengths if ends[0] <= n < len(whole)):
        cut.write_bytes(whole[:length])
        blocks, reader = read(cut)
        assert reader.cut is not None
        counts.append([len(block.events) for block in blocks if isinstance(block, EventBlock)])
    full = [len(batch) for batch in MIXED]
    assert all(count == full[: len(count)] for count in counts)
    assert {len(count) for count in counts} == set(range(len(full) + 1))


def test_a_packed_block_with_a_wrong_byte_is_found_by_its_checksum(tmp_path: Path) -> None:
    with Writer(tmp_path / "whole.dbt") as writer:
        writer.begin({})
        writer.write_events(np.concatenate(list(Generator(1.5).slices()))[:200])
        writer.finish(9, "")
    whole = (tmp_path / "whole.dbt").read_bytes()
    (_, _, begin), (kind, end, _), _ = layout(whole)
    assert kind == BlockKind.PACKED_EVENTS
    bad = tmp_path / "bad.dbt"
    for offset in range(begin, end):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x01
        bad.write_bytes(damaged)
        blocks, reader = read(bad)
        assert blocks == []
        assert reader.cut is not None
        assert reader.cut.offset == begin


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
    header = len(framing.MAGIC) + framing.BLOCK.size  # without a header there is nothing
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
        (framing.MAGIC, "cut or damaged within its header"),
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
        (BlockKind.SNAPSHOT, b"[]"),
        (BlockKind.SNAPSHOT, b'{"when":"end","ts":"late","buffers":[],"holders":[]}'),
        (BlockKind.SNAPSHOT, b"[" * 100_000),
        (BlockKind.STACKS, b'{"1":"frames"}'),
        (BlockKind.MARK, b'{"ts":1,"label":7}'),
        (BlockKind.MARK, b'{"ts":1,"label":"run","status":true}'),
        (BlockKind.MARK, b'{"ts":1,"label":"run","more":1}'),
        (BlockKind.BUILDS, b'{"mod":7}'),
        (BlockKind.BUILDS, b'["mod"]'),
        (BlockKind.END, b'{"ts":1e99,"events":0,"reason":""}'),
        (BlockKind.END, b'{"ts":18446744073709551616,"events":0,"reason":""}'),
        (BlockKind.EVENTS, b"12345"),
        (BlockKind.PACKED_EVENTS, b"12345"),
        (BlockKind.PACKED_EVENTS, b"\xff" * 100),
        (BlockKind.LOSSES, b"12345678"),
        (BlockKind.HEADER, b"not JSON"),
    ],
)
def test_a_block_that_was_made_up_is_one_clear_line(
    tmp_path: Path, kind: BlockKind, payload: bytes
) -> None:
    path = tmp_path / "crafted.dbt"
    header = framing.frame(BlockKind.HEADER, b'{"schema":1}')
    if kind is BlockKind.HEADER:
        header = []
    path.write_bytes(b"".join([framing.MAGIC, *header, *framing.frame(kind, payload)]))
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
