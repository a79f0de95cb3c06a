# SPDX-License-Identifier: Apache-2.0
"""A moment as a screen: pure, of any size, nothing foreign unescaped.

The head counts on, whatever stands still below it. What does not fit is left out from the end, and
of a table, spare columns first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from textwrap import wrap
from typing import Any, Final

from numpy.typing import NDArray
from rich.text import Text

from dmabuf_trace.render.text import printable
from dmabuf_trace.top import story
from dmabuf_trace.top.activity import CALLS, Moment, Sample
from dmabuf_trace.top.grid import Lines, beside, filled, fitted, sparkline, table
from dmabuf_trace.top.recent import SPAN_NS, percentile
from dmabuf_trace.top.view import KEYS, TABS, View, listing_of, order_of, places_of
from dmabuf_trace.units import bytes_text, count_text, duration_text, rate_text

WIDE: Final = 150
TALL: Final = 30
FEWEST: Final = (40, 10)
"""Columns and lines without which nothing is shown."""
_FOOT: Final = "q quit  Tab table  Enter open  s sort  r reverse  / filter  Space freeze  ? help"
SMALL: Final = 6
"""Lines of a table that is not the one looked at: title, head, rows, a gap."""
_OTHERS: Final = ("mappings", "growing", "exporters", "processes", "devices")
"""What is beside the table looked at, while there is room."""
_RELIES_ON: Final = {"mappings": ("map", "unmap"), "growing": ("export", "release")}


@dataclass(frozen=True, slots=True)
class Frame:
    """Columns and lines to draw in, what it is about, whether in ASCII, whether keys are read."""

    width: int
    height: int
    title: str = ""
    is_plain: bool = False
    has_keys: bool = True


def draw(view: View, shown: Moment, latest: Moment, frame: Frame) -> Lines:
    """The screen: head and foot of the ``latest`` moment, the rest of the one that is ``shown``."""
    if frame.width < FEWEST[0] or frame.height < FEWEST[1]:
        small = f"needs {FEWEST[0]}x{FEWEST[1]}"
        return Lines(filled([Text(small)], frame.width, frame.height))
    head = [*_head(view, shown, latest, frame)]
    height = frame.height - len(head) - 1
    if view.helps:
        body = _help(frame.width)
    elif view.story:
        body = story.lines(shown, view.story, view.cursor, height)
    else:
        body = _body(view, shown, frame, height)
    lines = [*head, *filled(body, frame.width, height), _foot(view, frame)]
    return Lines(filled(lines, frame.width, frame.height))


def _foot(view: View, frame: Frame) -> Text:
    if not frame.has_keys:
        return Text()
    if view.typing:
        return Text.assemble(("filter: ", "bold"), printable(view.text), ("_", "blink"))
    if view.story:
        return Text("Esc back  Up, Down scroll  q quit  ? help", "dim")
    return Text(_FOOT, "dim")


# head


def _rates(course: tuple[Sample, ...], name: str) -> list[float]:
    """Per second, between samples."""
    pairs = ((before, after) for before, after in pairwise(course))
    return [
        (getattr(after, name) - getattr(before, name)) * 1e9 / max(after.ts - before.ts, 1)
        for before, after in pairs
    ]


def _head(view: View, shown: Moment, now: Moment, frame: Frame) -> Iterator[Text]:
    ago = f" {duration_text(now.ts - shown.ts)} ago" if now.ts > shown.ts else ""
    state = f"frozen{ago}" if view.stands else ""
    what = f"  {printable(frame.title)}  up {duration_text(now.ts - now.start)}  "
    yield Text.assemble(("dmabuf-trace top", "bold"), what, (state, "reverse"))
    half = frame.width // 2
    for left, right in zip(_levels(now, frame, half), _calls(now, frame, half), strict=True):
        yield from beside(filled([left], half, 1), filled([right], frame.width - half, 1))
    if doubt := "; ".join(_doubts(now)):
        yield Text(doubt, "yellow")


def _levels(now: Moment, frame: Frame, width: int) -> Iterator[Text]:
    """Events, buffers and memory: a value, what else there is to say, its course."""
    sizes = [sample.size_bytes for sample in now.course]
    counts = [sample.buffers for sample in now.course]
    lost = Text(f"lost {now.lost:,}", "bold red" if now.lost else "green")
    attached = Text(_open(now, "attached", now.rows.attachments, ("attach", "detach")))
    mapped = Text(_open(now, "mapped", now.rows.mappings, ("map", "unmap")))
    rows = (
        ("events", f"{now.kinds.sum() / now.seconds:,.0f}/s", lost, _rates(now.course, "events")),
        ("buffers", f"{counts[-1]:,}", attached, counts),
        ("memory", bytes_text(sizes[-1]), mapped, sizes),
    )
    widest = max(text.cell_len for _, _, text, _ in rows)
    room = max(width - 21 - widest, 0)
    for name, value, text, levels in rows:
        curve = sparkline(levels, room, is_plain=frame.is_plain)
        yield Text.assemble(
            *((f"{name:<8}", "dim"), (f"{value:>9}  ", "bold")),
            *(fitted(text, widest), " ", (curve, "cyan"), " "),
        )


def _open(now: Moment, what: str, rows: NDArray[Any], kinds: tuple[str, str]) -> str:
    return f"{len(rows):,} {what}" if now.missing.keys().isdisjoint(kinds) else f"{what}: ?"


def _calls(now: Moment, frame: Frame, width: int) -> Iterator[Text]:
    room = max(width - 40, 0)
    for at, call in enumerate(CALLS):
        rate = now.per_second(call)
        if rate is None:
            yield Text.assemble((f"{call:<8}", "dim"), ("not observed", "yellow"))
            continue
        p50, p99 = (percentile(now.calls.get(at), percent) for percent in (50, 99))
        lengths = "  ".join(
            f"{name} {duration_text(ns) if ns >= 0 else '-':>6}"
            for name, ns in (("p50", p50), ("p99", p99))
        )
        curve = sparkline(_rates(now.course, call), room, is_plain=frame.is_plain)
        yield Text.assemble(
            (f"{call:<8}", "dim"),
            (f"{rate_text(rate):>8}  ", "bold"),
            lengths,
            (f"  {curve}", "cyan"),
        )


def _doubts(now: Moment) -> Iterator[str]:
    """Why something may not be seen."""
    if now.missing:
        yield f"not observed: {', '.join(now.missing)}"
    if now.unlisted:
        yield "buffers from before that no process held are not known"
    if unsized := int((now.rows.buffers["size"] == 0).sum()):
        yield f"{count_text(unsized, 'buffer')} of unknown size"
    if now.unreadable:
        yield f"{count_text(now.unreadable, 'process', 'processes')} could not be looked into"


# body


def _body(view: View, moment: Moment, frame: Frame, height: int) -> list[Text]:
    """Side by side where that is wide enough."""
    others = [name for name in _OTHERS if name != view.listing]
    if frame.width < WIDE:
        names = others if height >= TALL else [name for name in others if name in _RELIES_ON]
        return _stacked([view.listing, *names], view, moment, frame, height)
    half = replace(frame, width=frame.width // 2 - 1)
    left = [name for name in others if name in ("exporters", "devices")]
    right = [name for name in others if name not in left]
    gap = [Text(" " * (frame.width - 2 * half.width))] * height
    above = _stacked([view.listing, *left], view, moment, half, height)
    return beside(above, gap, _stacked(right, view, moment, half, height))


def _stacked(names: list[str], view: View, moment: Moment, frame: Frame, height: int) -> list[Text]:
    """Tables on top of each other, each as high as it was before, whatever is in it.

    Only what grows takes no more than it needs. The first one has what the others leave; on a high
    screen these take their shares.
    """
    heights = dict.fromkeys(names[1:], SMALL)
    if "growing" in heights:
        heights["growing"] = 1 + len(_small("growing", moment, frame, SMALL - 3))
    sharing = heights.keys() - {"growing"} if height >= TALL else set()
    share = (height - sum(heights.values())) // (len(sharing) + 2)
    heights |= dict.fromkeys(sharing, SMALL + share)
    heights = {names[0]: max(height - sum(heights.values()), SMALL), **heights}
    lines: list[Text] = []
    for name, room in heights.items():
        if name == view.listing:
            lines += filled(_main(view, moment, frame, room), frame.width, room)
        else:
            lines += filled(_small(name, moment, frame, room - 3), frame.width, room)
    return filled(lines, frame.width, height)


def _main(view: View, moment: Moment, frame: Frame, height: int) -> list[Text]:
    """The table looked at: a line of tabs, the head, rows around the chosen one."""
    listing, places = listing_of(moment, view.listing), places_of(view, moment)
    tabs = Text()
    for name in TABS:
        tabs.append(f" {name} ", "reverse bold" if name == view.listing else "").append(" ")
    shown = count_text(len(places), "row")
    tabs.append(f" {shown}" + (f" with {printable(view.text)}" if view.text else ""), "dim")
    count = max(height - 3, 1)
    cursor = min(view.cursor, max(len(places) - 1, 0))
    first = max(cursor - count + 1, 0)
    return [
        tabs,
        *table(
            *(listing.columns, listing.rows(places[first : first + count]), frame.width),
            sorted_by=order_of(view, listing),
            ascending=view.ascending,
            chosen=cursor - first,
            is_plain=frame.is_plain,
        ),
    ]


def _small(name: str, moment: Moment, frame: Frame, count: int) -> list[Text]:
    """Another table: title, head, its first rows, or why there are none."""
    listing = listing_of(moment, name)
    if missing := [kind for kind in _RELIES_ON.get(name, ()) if kind in moment.missing]:
        text = f"not observed: {', '.join(missing)}"
        return [Text.assemble((f"{listing.title}: ", "bold"), (text, "yellow"))]
    if not len(listing.keys):
        return [Text.assemble((f"{listing.title}: ", "bold"), "none so far")]
    places = listing.sorted(listing.find(""), listing.order, ascending=False)
    is_suspicion = name == "growing"
    title = Text(f"{listing.title} ({listing.complete:,})", "bold red" if is_suspicion else "bold")
    if is_suspicion and moment.lost:
        title.append("  events were lost: what seems to stay may be gone", "not bold yellow")
    rows = listing.rows(places[: max(count, 1)])
    return [title, *table(listing.columns, rows, frame.width, is_plain=frame.is_plain)]


# help

_MEANT: Final = (
    f"Rates, p50 and p99 are of the last {SPAN_NS // 10**9} s. A dash: not known, or not observed.",
    "A buffer counts for the process that exported it; one from before, for one that held it then.",
    "fds: open now. Attachments and mappings from before are not known until they are used.",
    "What grows: buffers that stay, more and more of them, since this began.",
)


def _help(width: int) -> list[Text]:
    keys = [Text.assemble((f"  {names:<18}", "bold"), what) for names, what in KEYS]
    meant = [line for text in _MEANT for line in wrap(text, width)]
    return [Text("Keys", "bold"), *keys, Text(), *map(Text, meant)]
