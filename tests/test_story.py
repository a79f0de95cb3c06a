# SPDX-License-Identifier: Apache-2.0
"""One buffer's story: of a recording that is read bit by bit it is that of the whole."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from dmabuf_trace import gather, reading, report, story, trace
from dmabuf_trace.errors import InputError
from dmabuf_trace.recording import Writer
from dmabuf_trace.render import machine
from tests.build import MS, US, Attachment, Build, Process, header
from tests.strategies import any_events

CAM = Process(7, "cam")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Buffers 41 (from before), 42 (gone), 43 and 44 (alive), 45 (44's name before it was 44's)."""
    monkeypatch.setattr(gather, "PACKED_EVENTS", 1)
    monkeypatch.setattr(trace, "STRETCH_EVENTS", 1)
    monkeypatch.setattr(reading, "BATCH_EVENTS", 1)
    k = Build()
    k.holding(k.existing(name="old"), fd=9)
    k.snapshot("start")
    gone, alive = k.export(fd=3, stack=("heap_alloc+0x1f",)), k.export(fd=4)
    k.name(gone, "frame")
    k.name(alive, "cache")
    k.wait(MS)
    k.by(CAM).fd(alive, 8)
    k.mmap(alive)
    one, other = (k.attach(buffer, "gpu", dynamic=True) for buffer in (gone, alive))
    k.wait(MS)
    k.lock_wait(alive, 2 * US)
    k.wait(US)
    k.operation(alive, "map", 3 * US)
    k.wait(US)
    kept = k.map(other, dur=10 * US)
    k.unmap(k.map(one, "to_device"))
    k.detach(one)
    k.snapshot("during")
    k.by(Process(100, "app")).close_fd(gone, 3)
    k.release(gone)
    k.wait(MS)
    again, last = (k.export(fd=fd) for fd in (5, 6))
    k.name(again, "frame 2")
    k.name(last, "frame 2")
    k.name(again, "44")
    k.wait(MS)
    k.unmap(kept)
    k.map(other, "from_device")
    k.move(alive)
    return k.write(tmp_path / "x.dbt")


def same(path: Path, wanted: str) -> story.Story:
    """Tell it both ways."""
    whole = trace.open(path)
    expected = story.tell(whole, wanted)
    opened, told = story.read(path, wanted)
    json = machine.story_json(told, report.recording(opened))
    assert json == machine.story_json(expected, report.recording(whole))
    assert told.steps == expected.steps
    return told


@pytest.mark.parametrize("wanted", ["41", "old", "42", "frame", "43", "cache", "44", "frame 2"])
def test_it_is_that_of_the_whole(file: Path, wanted: str) -> None:
    assert same(file, wanted).buffer["name"] in (wanted, *("old", "frame", "cache", "44"))


def test_all_that_is_there_of_one_that_is_alive(file: Path) -> None:
    told = same(file, "cache")

    assert [(row["open"], row["direction"]) for row in told.mappings] == [
        (False, "bidirectional"),
        (True, "from_device"),
    ]
    assert [step.depth for step in told.steps] == [0, 0, 0, 0, 0, 1, 2, 3, 4, 2, 2, 0]
    assert told.shape == "fd"
    assert [holder["kind"] for holder in told.holders] == ["fd", "fd", "mapping", "device"]
    assert (len(trace.about(file, 43).raw), len(trace.open(file).raw)) == (12, 28)


def test_there_is_none_or_there_are_several(tmp_path: Path) -> None:
    k = Build()
    for _ in range(2):
        k.name(k.export(), "twin")
    path = k.write(tmp_path / "x.dbt")

    for wanted in ("twin", "9", "nobody", "9" * 30):
        with pytest.raises(InputError) as expected:
            story.tell(trace.open(path), wanted)
        with pytest.raises(InputError) as found:
            story.read(path, wanted)
        assert (str(found.value), found.value.hint) == (str(expected.value), expected.value.hint)


def test_an_attachment_whose_address_is_that_of_another_buffers(tmp_path: Path) -> None:
    k = Build()
    one, other = k.export(), k.export()
    lost = k.attach(one, "gpu", dynamic=True)
    k.map(Attachment(other, lost.address, "gpu"))
    k.map(lost)
    path = k.write(tmp_path / "x.dbt")

    assert [len(same(path, inode).mappings) for inode in ("41", "42")] == [1, 1]


@settings(max_examples=20, deadline=None)
@given(any_events())
def test_whatever_the_events(events: NDArray[np.void]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(reading, "BATCH_EVENTS", 1)
        path = Path(folder) / "x.dbt"
        with Writer(path) as writer:
            writer.begin(header())
            for event in range(len(events)):
                writer.write_events(events[event : event + 1])
                writer.write_due(1 << 62)
        for inode in np.unique(trace.open(path).buffers["inode"]):
            same(path, str(inode))
