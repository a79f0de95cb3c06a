# SPDX-License-Identifier: Apache-2.0
"""Folded stacks, read by a library that others wrote for them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from pyrometry.flamegraph import FlameGraph

from dmabuf_trace import gather, trace
from dmabuf_trace.blocks import UserStackBlock
from dmabuf_trace.exports.formats import Request, export
from dmabuf_trace.render.text import printable
from tests.build import KIB, MIB, US, Build, Process
from tests.verdicts import HOSTILE

HEAP: Final = ("dma_buf_export+0x1", "system_heap_allocate+0x2f/0x90 [system_heap]", "ioctl+0x5")
CALL: Final = "app;system;ioctl;system_heap_allocate [system_heap];dma_buf_export"


def folded(path: Path, by: str = "") -> dict[str, float]:
    out = path.with_name("out")
    export(Request(path, "folded", out, by=by, force=True))
    found: dict[str, float] = FlameGraph.loads(out.read_text())
    return found


def some(tmp_path: Path) -> Path:
    """Three buffers of one stack, two left alive, one without a stack, one from before."""
    k = Build()
    k.holding(k.existing(size=7 * KIB, exporter="drm"), fd=9)
    k.snapshot("start")
    k.release(k.export(size=4 * KIB, stack=HEAP))
    k.export(size=8 * KIB, stack=HEAP)
    kept = k.export(size=16 * KIB, stack=HEAP)
    k.by(Process(7, "cam")).export(size=KIB, exporter="udmabuf")
    for device, dur in (("vivid-000", 5 * US), ("csi", US), ("csi", 2 * US)):
        k.map(k.attach(kept, device), dur=dur)
    k.map(k.attach(kept, "csi"), dur=US, errno=12)
    return k.write(tmp_path / "x.dbt")


def test_leaked_bytes(tmp_path: Path) -> None:
    assert folded(some(tmp_path)) == {CALL: 24 * KIB, "cam;udmabuf;(no stack)": KIB}


def test_live_bytes(tmp_path: Path) -> None:
    assert folded(some(tmp_path), "live-bytes") == {
        CALL: 24 * KIB,
        "cam;udmabuf;(no stack)": KIB,
        "(export not seen);drm;(no stack)": 7 * KIB,
    }


def test_allocated_bytes(tmp_path: Path) -> None:
    found = folded(some(tmp_path), "allocated-bytes")
    assert found == {CALL: 28 * KIB, "cam;udmabuf;(no stack)": KIB}


def test_map_time_ends_in_the_device(tmp_path: Path) -> None:
    assert folded(some(tmp_path), "map-time") == {
        "cam;system;(no stack);vivid-000": 5 * US,
        "cam;system;(no stack);csi": 4 * US,
    }


@pytest.mark.parametrize("by", ["allocated-bytes", "map-time"])
def test_stretch_by_stretch_it_is_the_same(
    tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = Build()
    for number in range(60):
        buffer = k.export(stack=HEAP[number % 2 :])
        k.wait(US)
        k.unmap(k.map(k.attach(buffer), dur=US))
        k.release(buffer)
    monkeypatch.setattr(gather, "PACKED_EVENTS", 1)
    path = k.write(tmp_path / "x.dbt")
    whole = folded(path, by)
    monkeypatch.setattr(trace, "STRETCH_EVENTS", 20)

    assert sum(1 for _ in trace.stretches(path)) > 5
    assert folded(path, by) == whole


def test_user_frames_are_ahead_of_the_kernels(tmp_path: Path) -> None:
    k = Build()
    key = k._stack(("dma_buf_export+0x1",))
    k.event(
        "export",
        buffer=41,
        object=1,
        value=KIB,
        stack=key,
        user_stack=5,
        aux=k._name("exporter", "drm"),
    )
    frames = ("ioctl+0x3 [libc.so.6]", "/opt/app+0x40", "0x7f00", "main+0x9/0x10 [app]")
    k._blocks.append(("user_stacks", UserStackBlock({5: frames})))

    assert folded(k.write(tmp_path / "x.dbt")) == {
        "app;drm;main [app];0x7f00;/opt/app+0x40;ioctl [libc.so.6];dma_buf_export": KIB
    }


@pytest.mark.parametrize("name", [*HOSTILE, "a;b 12", "# x", "a\u2028b", " "])
def test_no_name_breaks_a_line_or_a_frame(tmp_path: Path, name: str) -> None:
    comm = name.encode(errors="backslashreplace").decode()
    k = Build(process=Process(100, comm))
    k.export(size=MIB, exporter="system", stack=(f"{name}+0x1",))
    path = k.write(tmp_path / "x.dbt")

    ((stack, size),) = folded(path).items()

    assert size == MIB
    assert len(stack.split(";")) == 3
    assert not stack.startswith("#")
    assert printable(stack) == stack


def test_unknown_sizes_are_said(tmp_path: Path) -> None:
    k = Build()
    k.event("fd_install", buffer=50, object=1, value=1, detail=3)
    path = k.write(tmp_path / "x.dbt", cut=True)

    _, notes = export(Request(path, "folded", tmp_path / "out", by="live-bytes"))

    assert notes == ("1 buffer of unknown size: not in the lines",)
    assert (tmp_path / "out").read_text() == ""
