# SPDX-License-Identifier: Apache-2.0
"""What top draws, at any size, and what keys do."""

from __future__ import annotations

import io
import os
from functools import reduce
from pathlib import Path
from typing import Final

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from dmabuf_trace.render.text import printable
from dmabuf_trace.top.activity import Moment
from dmabuf_trace.top.draw import Frame, draw
from dmabuf_trace.top.grid import Lines, sparkline
from dmabuf_trace.top.keys import named
from dmabuf_trace.top.view import TABS, View, places_of, pressed
from tests.build import Build, S
from tests.screens import HOSTILE, SVG, busy, moments

SCREENS: Final = Path(__file__).parent / "screens"
REWRITE: Final = "DMABUF_TRACE_WRITE_SCREENS"
"""Set in the environment: the files of ``screens`` are made anew, for their difference to be read.
"""
SIZES: Final = ((80, 24), (160, 48))
VIEWS: Final = {"exporters": "", "buffers": "4", "story": "3 enter enter", "help": "?"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[Moment]:
    return moments(busy(), tmp_path_factory.mktemp("busy"))


@pytest.fixture(scope="module")
def last(shown: list[Moment]) -> Moment:
    return shown[-1]


def after(keys: str, moment: Moment, view: View | None = None) -> View:
    """The view after keys, separated by spaces."""
    return reduce(lambda at, key: pressed(at, key, moment), keys.split(), view or View())


def lines(view: View, moment: Moment, width: int = 80, height: int = 24) -> list[str]:
    drawn = draw(view, moment, moment, Frame(width, height, "6.12.0-test"))
    return [line.plain for line in drawn]


def svg(drawn: Lines, width: int, height: int) -> str:
    console = Console(
        record=True, width=width, height=height, file=io.StringIO(), force_terminal=True
    )
    console.print(drawn, end="")
    theme = DEFAULT_TERMINAL_THEME
    return console.export_svg(title="top", theme=theme, code_format=SVG, unique_id="top")


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", VIEWS)
def test_screens_are_as_they_were(last: Moment, name: str, width: int, height: int) -> None:
    view = after(VIEWS[name], last)
    drawn = draw(view, last, last, Frame(width, height, "6.12.0-test"))
    files = {
        SCREENS / f"{name}-{width}x{height}.svg": svg(drawn, width, height),
        SCREENS / f"{name}-{width}x{height}.txt": "".join(f"{x.plain.rstrip()}\n" for x in drawn),
    }
    if REWRITE in os.environ:
        for path, text in files.items():
            path.write_text(text)
    for path, text in files.items():
        assert path.read_text() == text, f"not as in {path.name}; {REWRITE}=1 makes it anew"


@pytest.mark.parametrize("width", [40, 61, 80, 149, 150, 200])
@pytest.mark.parametrize("height", [10, 11, 24, 37, 60])
@pytest.mark.parametrize("keys", ["", "2", "3", "4", "5", "6", "4 enter", "?", "/ x"])
def test_every_size_is_filled_exactly(last: Moment, width: int, height: int, keys: str) -> None:
    found = lines(after(keys, last), last, width, height)

    assert len(found) == height
    assert {cell_len(line) for line in found} == {width}


def test_a_terminal_too_small_is_told_so(last: Moment) -> None:
    assert lines(View(), last, 30, 5)[0].strip() == "needs 40x10"


@pytest.mark.parametrize("keys", ["", "2", "4", "6", "4 enter", "/ [ b"])
def test_hostile_names_are_shown_and_harm_nothing(last: Moment, keys: str) -> None:
    text = "\n".join(lines(after(keys, last), last, 200, 60))

    assert text.replace("\n", "").isprintable()
    assert not set(text) & {"\x1b", "\x9b", "\u202e"}


def test_hostile_names_are_escaped_not_lost(last: Moment) -> None:
    text = "\n".join(lines(after("4", last), last, 200, 60))

    assert all(printable(name)[:12] in text for name in HOSTILE)


def test_a_filter_leaves_rows_with_its_text(last: Moment) -> None:
    found = lines(after("4 / G P U", last), last)

    assert "filter: GPU_" in found[-1]
    assert [line for line in found if "scanout" in line or "drm" in line]
    assert "1 row with GPU" in found[4]


def test_keys_sort_reverse_and_choose(last: Moment) -> None:
    view = after("4 s", last)

    assert "age▼" in lines(view, last)[5]
    assert "age▲" in lines(after("r", last, view), last)[5]
    assert after("down down up end", last).cursor == len(places_of(View(), last)) - 1
    assert after("home up", last).cursor == 0


def test_enter_goes_from_a_device_to_its_buffers_to_a_story_and_esc_back(last: Moment) -> None:
    buffers = after("3 enter", last)
    story = after("enter", last, buffers)

    assert (buffers.listing, buffers.text) == ("buffers", "venc0")
    assert lines(story, last)[4].startswith("Buffer ")
    assert "attached to venc0" in "\n".join(lines(story, last))
    assert after("esc", last, story) == buffers
    assert after("esc", last, buffers).text == ""


def test_what_is_frozen_stands_while_the_head_counts_on(shown: list[Moment]) -> None:
    early, late = shown[len(shown) // 2], shown[-1]
    view = after("p", early)

    found = [x.plain for x in draw(view, early, late, Frame(100, 30, "x"))]

    assert "frozen" in found[0]
    assert found[5:] == lines(view, early, 100, 30)[5:]
    assert found[1] != lines(view, early, 100, 30)[1]
    assert "lost 3" in found[1]
    assert not after("p", early, view).stands


def test_tabs_go_round(last: Moment) -> None:
    keys = " ".join(["tab"] * len(TABS))

    assert after(keys, last) == View()
    assert after("shift-tab", last).listing == TABS[-1]


def test_ascii_is_enough(last: Moment) -> None:
    frame = Frame(80, 24, "x", is_plain=True)

    assert all(x.plain.isascii() for x in draw(after("4", last), last, last, frame))


def test_nothing_observed_is_said_not_shown_as_zero(tmp_path: Path) -> None:
    k = Build(unobserved=("map", "attach"))
    k.snapshot("start")
    k.export()
    k.wait(S)
    k.release(k.export())

    found = lines(View(), moments(k, tmp_path)[-1])

    assert [line[40:].split()[:3] for line in found[2:4]] == [
        ["attach", "not", "observed"],
        ["map", "not", "observed"],
    ]
    assert found[4].startswith("not observed: attach, map; buffers from before that no process")
    assert "Longest-held mappings: not observed: map" in "\n".join(found)


def test_nothing_at_all_is_no_error(tmp_path: Path) -> None:
    moment = moments(Build(), tmp_path)[-1]

    for keys in ["", *map(str, range(1, 7)), "enter", "4 enter", "s r enter", "down pgdn end"]:
        assert len(lines(after(keys, moment), moment)) == 24


def test_sparklines_begin_at_zero() -> None:
    assert sparkline([0, 1, 8], 5, is_plain=False) == "   ▁█"
    assert sparkline([], 3, is_plain=True) == "   "


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("q", ["q"]),
        ("\x1b[A\x1bOB", ["up", "down"]),
        ("\x1b", ["esc"]),
        ("\x1b[5~\t\r\x7f", ["pgup", "tab", "enter", "backspace"]),
        ("\x1b[1;5Cs", ["s"]),
        ("é ", ["é", " "]),
        ("\x00\x07\u202e", []),
    ],
)
def test_keys_are_told_apart(sent: str, keys: list[str]) -> None:
    assert named(sent) == keys
