# SPDX-License-Identifier: Apache-2.0
"""An event a line: columns, JSON, stacks, and which events are wanted."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace import lines, schema
from dmabuf_trace.blocks import Found
from dmabuf_trace.errors import InputError
from dmabuf_trace.lines import EVERYTHING, Passing, Seen, Stacks, Wanted
from dmabuf_trace.names import UNKNOWN
from dmabuf_trace.render.event import kind_name
from dmabuf_trace.render.jsonl import event_json
from dmabuf_trace.render.line import Aligned
from tests.build import MIB, MS, P2P, START, US, Build, Process, S
from tests.terminal import read_all
from tests.test_render import ESCAPED, HOSTILE

NONE = Stacks()


def passed(k: Build, wanted: Wanted = EVERYTHING) -> tuple[Passing, list[Seen]]:
    passing = Passing(wanted)
    passing.names.feed(k.names())
    return passing, list(passing.feed(k.events()))


def text_of(k: Build, width: int | None = None) -> list[str]:
    passing, found = passed(k)
    form = Aligned(width, START)
    text = "".join(form.line(seen, passing.names, NONE) for seen in found)
    return (form.head() + text).splitlines()


def kinds(k: Build, **wanted: Any) -> list[str]:
    return [kind_name(seen.event) for seen in passed(k, Wanted(**wanted))[1]]


def test_a_line_per_event_in_columns() -> None:
    k = Build()
    buffer = k.export(size=MIB, exporter="vgem", fd=5, dur=3 * US)
    k.by(Process(812, "v4l2-ctl"))
    k.wait(12 * S + 345678 * US)
    attachment = k.attach(buffer, dur=12 * US)
    k.unmap(k.map(attachment, "to_device", dur=1500), "to_device")
    k.map(attachment, errno=12)
    k.detach(attachment)
    k.mmap(buffer, start=0x7F00)
    k.name(buffer, "frame 0")
    k.event("fork", detail=101)
    k.event("poll", buffer=41, value=0x5, detail=0x4)
    k.event("lock_wait", buffer=41, ret=-4, dur=MS)
    k.release(buffer)

    titles, *lines_ = text_of(k)
    _, *rows = (line.split("  ") for line in lines_)
    cells = [[cell.strip() for cell in row if cell] for row in rows]

    by, of = ["12.345678", "0", "v4l2-ctl-812"], ["41", "vgem"]
    device, whole = ["vivid-000", "1 MiB"], ["41", "vgem", "-", "1 MiB"]
    assert cells == [
        ["0.000000", "0", "app-100", "fd_install", *whole, "-", "-", "fd 5"],
        [*by, "attach", *of, *device, "12us", "ok", "static", "platform/vivid"],
        [*by, "map", *of, *device, "1.5us", "ok", "to_device", "1 entry", "platform/vivid"],
        [*by, "unmap", *of, *device, "-", "-", "to_device", "platform/vivid"],
        [*by, "map", *of, *device, "0ns", "ENOMEM", "bidirectional", "platform/vivid"],
        [*by, "detach", *of, *device, "-", "-", "platform/vivid"],
        [*by, "mmap", *whole, "0ns", "ok", "1 MiB at 0x7f00"],
        [*by, "set_name", *whole, "0ns", "ok", '"frame 0"'],
        [*by, "fork", "-", "-", "-", "-", "-", "-", "child 101"],
        [*by, "poll", *whole, "0ns", "-", "for in+out: out"],
        [*by, "lock_wait", *whole, "1ms", "EINTR"],
        [*by, "release", *whole, "-", "-"],
    ]
    assert titles.split() == [
        *("time", "cpu", "process", "event", "buffer", "exporter", "device", "size", "dur"),
        "result",
    ]
    starts = {"event": "attach", "exporter": "vgem", "device": "vivid-000", "result": "ok"}
    assert all(titles.index(title) == lines_[2].index(cell) for title, cell in starts.items())


def test_columns_stay_aligned_behind_long_and_wide_names() -> None:
    k = Build()
    k.export(exporter="x" * 40)
    k.export(exporter="漢字")
    k.export(exporter="y")

    _, long, wide, short = text_of(k)

    assert "x" * 40 in long
    at = long.index("4 KiB")
    assert (short.index("4 KiB"), wide.index("4 KiB")) == (at, at - len("漢字"))
    assert long.index("x" * 40) == wide.index("漢") == short.index("y  ")


def test_names_are_cut_on_a_narrow_terminal_only() -> None:
    k = Build()
    k.by(Process(7, "a-thread-of-mine")).export(exporter="exporter-of-a-long-name")

    _, narrow = text_of(k, 100)
    _, wide = text_of(k, 250)
    _, pipe = text_of(k)

    assert "a-threa…  export" in narrow
    assert "exporte…  -" in narrow
    for line in (wide, pipe):
        assert "a-thread-of-min" in line
        assert "exporter-of-a-long-name" in line


def test_a_line_never_moves_the_cursor() -> None:
    k = Build()
    k.by(Process(7, HOSTILE)).name(k.export(exporter=HOSTILE), HOSTILE)

    _, first, second = text_of(k)

    assert f"{ESCAPED}-7" in first
    assert f'"{ESCAPED}"' in second
    assert first.isprintable()
    assert second.isprintable()


def test_every_kind_has_a_line_and_a_json_object_even_for_senseless_fields() -> None:
    k = Build()
    most = 2**64 - 1
    for kind in schema.KINDS:
        k.event(kind.name, detail=0xFFFFFFFF, value=most, aux=most, object=most, buffer=most)
    events = k.events()
    events["kind"][0] = 99
    passing = Passing()

    for seen in passing.feed(events):
        assert Aligned().line(seen, passing.names, NONE).rstrip("\n").isprintable()
        json.dumps(event_json(seen, passing.names), allow_nan=False)


def test_peer_to_peer_in_a_line_and_as_json() -> None:
    k = Build()
    buffer = k.export()
    for p2p in P2P:
        k.attach(buffer, "nic", driver="", bus="", dynamic=True, p2p=p2p)
    k.attach(buffer, "nic", driver="", bus="", dynamic=True, p2p="refused", errno=16)
    passing, (_, *found) = passed(k)

    told = [line.split(maxsplit=11)[11] for line in text_of(k)[2:]]
    asked = [event_json(seen, passing.names)["peer2peer_asked"] for seen in found]

    refused = "dynamic p2p refused"
    assert told == ["dynamic p2p", refused, "dynamic", "dynamic p2p", "dynamic", "dynamic"]
    assert asked == [True, True, False, True, None, True]


def test_an_event_as_json() -> None:
    k = Build()
    buffer = k.export(exporter="vgem")
    attachment = k.attach(buffer, "gpu", driver="amdgpu", bus="pci", dynamic=True)
    passing, (*_, seen) = passed(k)

    assert event_json(seen, passing.names) == {
        "ts_ns": START,
        "kind": "attach",
        "buffer": 41,
        "exporter": "vgem",
        "size_bytes": 4096,
        "object": f"{attachment.address:#x}",
        "pid": 100,
        "tid": 100,
        "comm": "app",
        "cgroup": None,
        "cpu": 0,
        "ret": 0,
        "dur_ns": 0,
        "device": "gpu",
        "driver": "amdgpu",
        "bus": "pci",
        "device_address": f"{k.events()[-1]['value']:#x}",
        "dynamic": True,
        "peer2peer": False,
        "peer2peer_asked": False,
    }


def test_stacks_are_indented_below_the_line_and_lists_in_json() -> None:
    k = Build()
    k.export(stack=("dma_buf_export+0x1", HOSTILE))
    passing, (seen,) = passed(k)
    stacks = Stacks(kernel=k.stacks.get, user=lambda _: ("main+0x2 [app]",))

    line = Aligned().line(seen, passing.names, stacks)

    assert line.splitlines()[1:] == [
        f"{'':16}at   dma_buf_export+0x1",
        f"{'':16}     {ESCAPED}",
    ]
    assert stacks.of(seen.event) == {"stack": ("dma_buf_export+0x1", HOSTILE), "user_stack": None}
    assert stacks.of({**seen.event, "user_stack": 3})["user_stack"] == ("main+0x2 [app]",)
    assert NONE.of(seen.event) == {}


def test_a_buffer_is_known_from_its_export_or_a_look_until_after_its_release() -> None:
    k = Build()
    buffer = k.export(exporter="vgem")
    k.release(buffer)
    k.event("get", buffer=7)
    passing, (*_, release, before) = passed(k)
    passing.know([Found(7, 8192, "system", "")])

    assert (release.exporter, release.size) == ("vgem", 4096)
    assert (before.exporter, before.size) == (UNKNOWN, None)
    (again, other) = passing.feed(k.events()[1:])
    assert (again.exporter, again.size) == (UNKNOWN, None)
    assert (other.exporter, other.size) == ("system", 8192)


def test_filters() -> None:
    k = Build()
    buffer = k.export(dur=3 * US)
    attachment = k.attach(buffer, "gpu", dur=MS)
    k.map(attachment, errno=12)
    k.by(Process(7, "other")).get(k.export(exporter="vgem"))
    k.attach(buffer, "nic")

    assert kinds(k, kinds=lines.kinds(["map, export", "get"])) == ["export", "map", "export", "get"]
    assert kinds(k, device="gpu") == ["attach", "map"]
    assert kinds(k, device="none") == []
    assert kinds(k, min_dur=3 * US) == ["export", "attach"]
    assert kinds(k, errors=True) == ["map"]
    assert kinds(k, pids=(7,), device="nic") == ["attach"]
    assert kinds(k, comm="other") == ["export", "get", "attach"]
    assert kinds(k, exporter="vgem") == ["export", "get"]
    assert kinds(k, buffer="42") == ["export", "get"]
    assert kinds(k, buffer="0") == []


def test_a_buffer_is_wanted_by_its_name_as_long_as_it_has_it() -> None:
    k = Build()
    buffer, other = k.export(), k.export()
    k.name(buffer, "frame")
    k.name(other, "depth")
    k.get(buffer)
    k.name(buffer, "old")
    k.get(buffer)

    assert kinds(k, buffer="frame") == ["set_name", "get"]
    passing = Passing(Wanted(buffer="cursor"))
    passing.know([Found(42, 4096, "system", "cursor")])
    passing.names.feed(k.names())
    found = [kind_name(seen.event) for seen in passing.feed(k.events())]
    assert found == ["export"]  # until it was named depth


def test_an_unknown_kind_is_an_error_that_lists_them() -> None:
    with pytest.raises(InputError, match="no event 'maps'") as caught:
        lines.kinds(["map,maps"])
    assert all(kind.name in caught.value.hint for kind in schema.KINDS)


def run(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dmabuf_trace", "events", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, check=False
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    k = Build()
    k.existing(size=MIB)
    k.holding(k.existing(exporter="drm"), 9)
    k.snapshot("start")
    k.event("get", buffer=42, detail=9)
    k.wait(2 * S)
    k.export(fd=3, stack=("dma_buf_export", "heap_ioctl"))
    return k.write(tmp_path / "x.dbt")


def test_events_of_a_recording(file: Path) -> None:
    found = run(file, "-k")

    titles, get, export, *stack, install = found.stdout.splitlines()
    assert (found.returncode, found.stderr) == (0, "")
    assert get.split()[:10] == [
        *("0.000000", "0", "app-100", "get", "42", "drm", "-", "4", "KiB", "0ns")
    ]
    assert export.split()[0] == install.split()[0] == "2.000000"
    assert [line.split()[-1] for line in stack] == ["dma_buf_export", "heap_ioctl"]
    assert titles.split()[:4] == ["time", "cpu", "process", "event"]
    assert run(file, "-u").stderr == (
        "dmabuf-trace: it has no user stacks: they are there after record --stacks user\n"
    )


def test_events_of_a_part_and_as_json(file: Path) -> None:
    told = run(file, "--json", "-k", "--window", "1s,3s", "--event", "export,get").stdout

    (event,) = map(json.loads, told.splitlines())
    assert (event["kind"], event["stack"]) == ("export", ["dma_buf_export", "heap_ioctl"])
    assert run(file, "--window", "9s,10s").returncode == 2


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    k = Build(unobserved=["map", "pin"])
    k.export()
    k.lose("export", "ring_full", 3)
    path = k.write(tmp_path / "x.dbt", cut=True, filters=["--exporter", "system"])

    found = run(path, "--event", "export,map")

    assert found.returncode == 0
    lost, *doubts = found.stderr.splitlines()
    assert lost.startswith("dmabuf-trace: LOST: ")
    assert "(export 3)" in lost
    assert doubts == [
        "dmabuf-trace: not observed: map (not asked for)",
        "dmabuf-trace: recorded with --exporter system: what that leaves out is not there",
        "dmabuf-trace: the recording ends without its end block; all up to there is shown",
    ]


def test_a_terminal_is_asked_how_wide_it_is(tmp_path: Path) -> None:
    k = Build()
    k.by(Process(7, "a-thread-of-mine")).export(exporter="exporter-of-a-long-name")
    command = [sys.executable, "-m", "dmabuf_trace", "events", str(k.write(tmp_path / "x.dbt"))]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))

    with subprocess.Popen(command, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = read_all(ours)

    assert process.returncode == 0
    assert "a-threa…  export" in shown
    assert "exporte…  -" in shown


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--event", "maps"), "no event 'maps'"),
        (("--min-dur", "5"), "'5' is not a duration"),
    ],
)
def test_bad_options(file: Path, args: tuple[str, ...], line: str) -> None:
    found = run(file, *args)

    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.splitlines()[0] == f"dmabuf-trace: {line}"
    live = subprocess.run(
        [sys.executable, "-m", "dmabuf_trace", "trace", *args, "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (live.returncode, live.stderr) == (2, found.stderr)


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    k = Build()
    for _ in range(4000):
        k.release(k.export())
    path = k.write(tmp_path / "x.dbt")
    shell = f"set -o pipefail; {sys.executable} -m dmabuf_trace events {path} | head -1"

    found = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)

    assert (found.returncode, found.stderr) == (141, "")
    assert len(found.stdout.splitlines()) == 1
