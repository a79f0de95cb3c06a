# SPDX-License-Identifier: Apache-2.0
"""What people and programs get to see."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from dmabuf_trace import report, schema, story, trace
from dmabuf_trace.analysis import Result, registry
from dmabuf_trace.errors import InputError
from dmabuf_trace.render import machine, terminal
from dmabuf_trace.render.table import Part, write
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import bytes_text, duration_text, parse_duration, rate_text
from tests.build import KIB, MIB, MS, US, Build, Process, S

HOSTILE = "\x1b[2J\x07[bold]x[/]\u202e\r"
ESCAPED = "\\x1b[2J\\x07[bold]x[/]\\u202e\\r"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def shown(parts: object, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    write(parts, stream)  # type: ignore[arg-type]
    return stream.getvalue()


def opened(k: Build, tmp_path: Path, *, cut: bool = False) -> trace.Trace:
    return trace.open(k.write(tmp_path / "x.dbt", cut=cut))


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0ns"),
        (999, "999ns"),
        (1_000, "1us"),
        (1_250, "1.25us"),
        (999_600, "1ms"),
        (12_345_678, "12.3ms"),
        (1_500_000_000, "1.5s"),
        (59_960_000_000, "1m00s"),
        (123_000_000_000, "2m03s"),
        (3_900_000_000_000, "1h05m"),
        (-5, "-5ns"),
    ],
)
def test_durations(ns: int, text: str) -> None:
    assert duration_text(ns) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (4096, "4 KiB"),
        (1536 * KIB, "1.5 MiB"),
        (MIB - 1, "1 MiB"),
        (-4096, "-4 KiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (0.0, "0/s"),
        (59.94, "59.9/s"),
        (12_345.6, "12,346/s"),
        (0.996, "1/s"),
        (0.5, "30/min"),
        (1 / 3_600, "1/h"),
        (-2.5, "-2.5/s"),
    ],
)
def test_rates(per_second: float, text: str) -> None:
    assert rate_text(per_second) == text


@pytest.mark.parametrize(
    ("text", "ns"),
    [("500us", 500_000), ("20ms", 20_000_000), ("1.5s", 1_500_000_000), ("2m", 120_000_000_000)],
)
def test_durations_as_they_are_typed(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "5", "x", "-1s", "1 s", "1e3s", "٣s", "1" * 99 + "s"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(InputError, match="is not a duration"):
        parse_duration(text)


def test_printable_leaves_good_text_alone() -> None:
    assert printable("caf\u00e9 [x] \\ \u6f22") == "caf\u00e9 [x] \\ \u6f22"
    assert printable("a\nb\u2028c\udce9\x9b") == "a\\nb\\u2028c\\udce9\\x9b"


@pytest.mark.parametrize(
    "control", [*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"]
)
def test_no_name_turns_the_direction_of_a_line(control: str, tmp_path: Path) -> None:
    k = Build()
    k.by(Process(7, f"a{control}b")).name(k.export(fd=3, exporter=f"x{control}"), f"{control}c")
    made = report.report(opened(k, tmp_path))

    for text in (shown(terminal.report_parts(made)), "".join(machine.report_json(made))):
        assert control not in text
        assert f"\\u{ord(control):04x}" in text


def test_a_report_on_one_screen(tmp_path: Path) -> None:
    k = Build()
    buffer = k.export(size=8 * KIB, fd=3, stack=("dma_buf_export", "heap_ioctl"), dur=2 * US)
    k.name(buffer, "frame")
    attachment = k.attach(buffer, dur=5 * US)
    k.map(attachment, dur=9 * US)
    k.attach(buffer, "gpu", errno=16)
    k.wait(2 * S)
    k.lose("unmap", "ring_full", 1)
    made = report.report(opened(k, tmp_path))

    text = shown(terminal.report_parts(made))

    path = tmp_path / "x.dbt"
    assert (
        text
        == f"""\
{path}
  kernel   6.12.0-test x86_64 on board
  recorded 2025-10-09 08:53:20 UTC, 2s, ended: command ended
  command  ./suite
  events   6, 1 lost

             begun  ended  open  failed  open size  begin unseen
buffers          1      0     1       0      8 KiB             0
attachments      1      0     1       1          -             0
mappings         1      0     1       0      8 KiB             0

Alive at the end, by shape (1)
shape  buffers   size  oldest
fd           1  8 KiB      2s

Leaks (1)
buffer  shape  age   size  exporter  name   exported by  pid  held by
    41  fd      2s  8 KiB  system    frame  app          100  app-100 fd 3; device vivid-000 mapped
  41 exported at: dma_buf_export < heap_ioctl

Mappings held for 1s or longer (1)
buffer  held  state   verdict    device     driver  bus       importer   size  exporter  \
direction      mapped by  pid       since  map took  moves
    41    2s  mapped  by design  vivid-000  vivid   platform  static    8 KiB  system    \
bidirectional  app        100  +0.000000s       9us      0

What exporters could not move meanwhile (1)
exporter  verdict    buffers   size  longest
system    by design        1  8 KiB       2s

Importer devices (2)
device     driver  bus       attaches  failed  open  maps  failed  open  mapped
gpu        vivid   platform         0       1     0     0       0     0     0 B
vivid-000  vivid   platform         1       0     1     1       0     1   8 KiB

Time in attach (1)
device     total  p50  p95  p99  max  of wall time
vivid-000    5us  5us  5us  5us  5us         0.00%

Where attach spent it (2)
device     driver  bus       calls  total  lock wait  fence wait  exporter's attach  \
exporter's pin  exporter's map  rest  lock wait share  fence wait share  exporter's attach share  \
exporter's pin share  exporter's map share  rest share
gpu        vivid   platform      1    0ns        0ns         0ns                  -  \
             -               -   0ns                -                 -                        -  \
                   -                     -           -
vivid-000  vivid   platform      1    5us        0ns         0ns                  -  \
             -               -   5us            0.00%             0.00%                        -  \
                   -                     -     100.00%

Time in map (1)
device     total  p50  p95  p99  max  of wall time
vivid-000    9us  9us  9us  9us  9us         0.00%

Where map spent it (1)
device     driver  bus       calls  total  lock wait  fence wait  exporter's pin  \
exporter's map  rest  lock wait share  fence wait share  exporter's pin share  \
exporter's map share  rest share
vivid-000  vivid   platform      1    9us        0ns         0ns               -  \
             -   9us            0.00%             0.00%                     -  \
                   -     100.00%

Maps by their time (1)
device     driver  bus        below  maps
vivid-000  vivid   platform  16.4us     1  ******************************

Failed calls of devices (1)
device  driver  bus       call    error  calls  total
gpu     vivid   platform  attach  EBUSY      1    0ns

Exporters (1)
exporter  buffers  exported  failed  alive  alive size   peak  fds  mmaps
system          1     8 KiB       0      1       8 KiB  8 KiB    1      0

Time in export (1)
exporter  total  p50  p95  p99  max  of wall time
system      2us  2us  2us  2us  2us         0.00%
  note: no function of these exporters was observed, its time is in the rest: system

Failed calls (1)
call    error  calls  device  exporter  by   pid       first        last  last buffer
attach  EBUSY      1  gpu     system    app  100  +0.000000s  +0.000000s           41

What may be missing (1)
what  event  cause      count    share  hint
loss  unmap  ring_full      1  100.00%  record with a larger --ring
! leaks, mappings, devices may be wrong: 1 event lost (unmap 1)

next: dmabuf-trace show {path} 41
      dmabuf-trace buffers {path}
"""
    )


def test_a_story(tmp_path: Path) -> None:
    k = Build()
    k.wait(MS)
    buffer = k.export(fd=3, stack=("dma_buf_export", "heap_ioctl"))
    other = k.export()
    k.attach(other)
    k.wait(MS)
    attachment = k.attach(buffer, dur=5 * US)
    mapping = k.map(attachment)
    k.attach(buffer, "gpu", errno=16)
    k.wait(MS)
    k.unmap(mapping)

    text = shown(terminal.story_parts(story.tell(opened(k, tmp_path), "41"), None))

    device, gpu = "device vivid-000 (platform/vivid)", "device gpu (platform/vivid)"
    assert (
        text
        == f"""\
buffer 41  system  4 KiB
     +0.001000s  app-100               export            4 KiB  dur 0ns
                                         at dma_buf_export < heap_ioctl
     +0.001000s  app-100               fd_install        fd 3
     +0.002000s  app-100                 attach #2       {device}  static  dur 5us
     +0.002000s  app-100                   map #2        {device}  bidirectional  1 entry  dur 0ns
     +0.002000s  app-100                 attach          {gpu}  static  FAILED EBUSY  dur 0ns
     +0.003000s  app-100                   unmap #2      {device}  bidirectional
alive at the end after 2ms, shape fd; held by:
  app-100 fd 3
  device vivid-000 attached
"""
    )


def test_parts_of_a_call_are_below_it(tmp_path: Path) -> None:
    k = Build()
    buffer = k.export()
    attachment = k.attach(buffer)
    about = {"buffer": buffer.inode, "object": attachment.address}
    pin, map_ = (schema.OPERATIONS.index(name) + 1 for name in ("pin", "map"))
    k.wait(10 * MS)
    k.event("lock_wait", buffer=buffer.inode, dur=3 * MS)
    k.by(Process(7, "other")).event("fence_wait", buffer=buffer.inode, value=5, aux=8, dur=1 * MS)
    k.by(Process(100, "app")).wait(2 * MS)
    k.event("operation", **about, detail=pin, dur=MS)
    k.wait(MS)
    k.event("operation", **about, detail=map_, dur=2500 * US)
    k.event("fence_wait", buffer=buffer.inode, value=5, aux=9, detail=1, dur=10 * US)
    k.map(attachment, dur=2900 * US)
    k.wait(MS)
    k.event("operation", **about, detail=map_, dur=10 * US)

    text = shown(terminal.story_parts(story.tell(opened(k, tmp_path), "41"), None))

    device = "device vivid-000 (platform/vivid)"
    assert (
        text.partition(device)[2].partition("alive")[0]
        == f"""\
  static  dur 0ns
     +0.010000s  app-100               lock_wait         dur 3ms
     +0.010000s  other-7               fence_wait        fence 5:8  dur 1ms
     +0.013000s  app-100                   map #1        {device}  bidirectional  1 entry  dur 2.9ms
     +0.013000s  app-100                     operation   map  dur 2.5ms
     +0.012000s  app-100                       operation  pin  dur 1ms
     +0.013000s  app-100                     fence_wait  fence 5:9  timed out  dur 10us
     +0.014000s  app-100                   operation     map  dur 10us
"""
    )


def test_a_long_story_leaves_the_middle_out_and_says_so(tmp_path: Path) -> None:
    k = Build()
    buffer = k.export()
    for fd in range(10):
        k.fd(buffer, fd)
    told = story.tell(opened(k, tmp_path), "41")

    text = shown(terminal.story_parts(told, 4))

    assert text.count("fd_install") == 3
    assert "... 7 events left out, see --all ..." in text
    assert shown(terminal.story_parts(told, 11)).count("fd_install") == 10


def test_a_story_by_name_and_of_nobody(tmp_path: Path) -> None:
    k = Build()
    k.name(k.export(), "one")
    k.name(k.export(), "two")
    k.name(k.export(), "two")
    found = opened(k, tmp_path)

    assert story.find(found, "one")["inode"] == 41
    with pytest.raises(InputError, match="2 buffers are named two: 42, 43"):
        story.find(found, "two")
    for nobody in ("99", "three", "", "9" * 40, "²"):
        with pytest.raises(InputError, match=f"no buffer {nobody} in") as caught:
            story.find(found, nobody)
        assert caught.value.hint == f"list them with: dmabuf-trace buffers {found.path}"


def leaks(k: Build, tmp_path: Path, *, cut: bool = False) -> tuple[Result, report.Recording]:
    found = opened(k, tmp_path, cut=cut)
    return registry()["leaks"](found), report.recording(found)


def test_each_place_that_took_references_is_a_line(tmp_path: Path) -> None:
    k = Build(sees_queues=True)
    for _ in range(2):
        buffer = k.export()
        k.get(buffer, stack=("npu_get", "npu_ioctl"))
        k.wait(MS)
    k.get(buffer, stack=("isp_get", HOSTILE))
    result, recording = leaks(k, tmp_path)

    text = shown(terminal.result_parts(result))

    assert [line for line in text.splitlines() if " taken at: " in line] == [
        "  41, 42 taken at: npu_get < npu_ioctl",
        f"  42 taken at: isp_get < {ESCAPED}",
    ]
    found = json.loads("".join(machine.result_json(result, recording)))
    assert found["tables"]["leaks"][1]["get_stacks"] == [
        ["isp_get", HOSTILE],
        ["npu_get", "npu_ioctl"],
    ]


def test_hostile_names_are_escaped_everywhere(tmp_path: Path) -> None:
    k = Build()
    k.by(Process(7, HOSTILE))
    buffer = k.export(exporter=HOSTILE, fd=3, stack=(HOSTILE,))
    k.name(buffer, HOSTILE)
    k.map(k.attach(buffer, HOSTILE, driver=HOSTILE, bus="\x1b]0;\x07"))
    k.attach(buffer, HOSTILE, errno=16)
    k.wait(2 * S)
    found = opened(k, tmp_path)
    documents: list[object] = [
        terminal.report_parts(report.report(found)),
        terminal.story_parts(story.tell(found, "41"), None),
    ]

    for parts in documents:
        text = shown(parts)
        assert all(line.isprintable() for line in text.splitlines())
        assert ESCAPED in text


def test_a_terminal_gets_folded_cells_and_no_markup_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    k = Build()
    k.name(k.export(exporter="[red]x[/red]", fd=3), "a very long name that has to be folded")

    parts: list[Part] = list(terminal.result_parts(leaks(k, tmp_path)[0]))
    text = re.sub(r"\x1b\[[12]?(;[12])?m|\x1b\[0m", "", shown(parts, Screen()))

    assert "[red]" in text.replace("\n", "").replace(" ", "")
    assert "\x1b" not in text, "a colour, in spite of NO_COLOR"
    assert max(map(len, text.splitlines())) <= 60
    assert max(map(len, shown(parts).splitlines())) > 60, "a pipe gets the full width"


def test_a_narrow_terminal_does_without_spare_columns_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    k = Build()
    k.map(k.attach(k.export(exporter="system", fd=3), "vivid-000"))
    k.wait(2 * S)
    path = k.write(tmp_path / "x.dbt")
    mappings = registry()["mappings"](trace.open(path))

    text = shown(terminal.result_parts(mappings), Screen())

    head, row = text.splitlines()[2:4]
    assert head.split()[:6] == ["buffer", "held", "state", "verdict", "device", "driver"]
    assert "vivid-000" in row
    assert max(map(len, (head, row))) <= 80
    assert "too narrow for: " in text
    assert "map took, moves; --json has all" in text


def test_a_cut_recording_says_so(tmp_path: Path) -> None:
    k = Build()
    k.export()

    text = shown(terminal.result_parts(leaks(k, tmp_path, cut=True)[0]))
    told = shown(terminal.story_parts(story.tell(trace.open(tmp_path / "x.dbt"), "41"), None))

    assert text.startswith("! may be wrong: the recording was cut (ends without its end block)\n")
    assert "nobody visible" not in text + told
    assert "nobody looked at the processes" in told


def test_results_as_json(tmp_path: Path) -> None:
    k = Build()
    k.export(size=8 * KIB, fd=3)
    k.wait(S)

    found = json.loads("".join(machine.result_json(*leaks(k, tmp_path))))

    assert (found["schema"], found["analysis"], found["certain"]) == (1, "leaks", True)
    assert found["recording"]["events"] == 2
    assert found["parameters"] == {"min_age": 0, "exporter": ""}
    assert found["tables"]["leaks"] == [
        {
            "inode": 41,
            "shape": "fd",
            "age_ns": S,
            "size_bytes": 8192,
            "exporter": "system",
            "name": "",
            "comm": "app",
            "pid": 100,
            "holders": [{"kind": "fd", "pid": 100, "comm": "app", "fds": [3]}],
            "export_stack": None,
            "export_user_stack": None,
            "attach_stack": None,
            "attach_user_stack": None,
            "get_stacks": None,
            "get_user_stacks": None,
        }
    ]


def test_report_and_story_as_json(tmp_path: Path) -> None:
    k = Build()
    attachment = k.attach(k.export(fd=3, stack=("dma_buf_export",)), HOSTILE)
    k.map(attachment)
    k.lose("map", "ring_full", 1)
    found = opened(k, tmp_path)

    whole = json.loads("".join(machine.report_json(report.report(found))))
    told = json.loads(machine.story_json(story.tell(found, "41"), report.recording(found)))

    assert set(whole["analyses"]) == {"leaks", "mappings", "devices", "errors"}
    assert whole["analyses"]["leaks"]["doubts"] == ["may be wrong: 1 event lost (map 1)"]
    assert whole["quality"][0]["share"] == 0.5
    assert whole["next"][0] == f"dmabuf-trace show {found.path} 41"
    assert [event["kind"] for event in told["events"]] == ["export", "fd_install", "attach", "map"]
    assert told["events"][0]["stack"] == ["dma_buf_export"]
    assert told["events"][2]["device"] == HOSTILE
    assert (told["shape"], told["buffer"]["inode"], told["mappings"][0]["open"]) == ("fd", 41, True)
