# SPDX-License-Identifier: Apache-2.0
"""What a person looks at, and what a key makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.top.activity import Moment
from dmabuf_trace.top.listing import Listing
from dmabuf_trace.top.listings import LISTINGS

TABS: Final = tuple(LISTINGS)

KEYS: Final = (
    ("q", "quit"),
    ("Up Down j k", "choose a row; in a story, scroll; PgUp, PgDn, Home, End too"),
    ("Tab g Left Right", "next table; Shift-Tab: the one before"),
    ("1 to 6", "the tables in the order of the tabs"),
    ("Enter", "open: who has buffers, a buffer its story"),
    ("s S", "sort by the next column, by the one before"),
    ("r", "reverse the order"),
    ("/", "show rows with this text; Enter: done, Esc: all again"),
    ("Space p f", "freeze what is shown; the head counts on"),
    ("Esc", "back"),
    ("? h", "this help"),
)
"""Keys and what they do."""

_WHOSE: Final = {
    "exporters": "exporter",
    "processes": "process",
    "devices": "device",
    "growing": "process",
}
"""The column that tells whose buffers a row is about."""
_STEPS: Final = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -10, "pgdn": 10}
_TURNS: Final = {"tab": 1, "g": 1, "right": 1, "left": -1, "shift-tab": -1}


@dataclass(frozen=True, slots=True)
class View:
    """``orders`` are columns that a person has chosen, by listing; ``story`` is a buffer's id.

    ``typing``: keys go into ``text``, the filter. ``quits``: no more is to be shown.
    """

    listing: str = TABS[0]
    orders: Mapping[str, str] = field(default_factory=dict)
    ascending: bool = False
    text: str = ""
    typing: bool = False
    cursor: int = 0
    story: int = 0
    frozen: bool = False
    helps: bool = False
    quits: bool = False

    @property
    def stands(self) -> bool:
        """Whether a later moment does not change what is shown below the head."""
        return self.frozen or self.story != 0


@lru_cache(maxsize=2 * len(LISTINGS))
def listing_of(moment: Moment, name: str) -> Listing:
    """A listing of a moment."""
    return LISTINGS[name](moment)


@lru_cache(maxsize=4)
def _places(moment: Moment, name: str, by: str, ascending: bool, text: str) -> NDArray[Any]:
    found = listing_of(moment, name)
    return found.sorted(found.find(text), by, ascending=ascending)


def order_of(view: View, listing: Listing) -> str:
    """The column that it is sorted by."""
    return view.orders.get(listing.name, listing.order)


def places_of(view: View, moment: Moment) -> NDArray[Any]:
    """Places of the rows in the listing looked at, as sorted and filtered."""
    by = order_of(view, listing_of(moment, view.listing))
    return _places(moment, view.listing, by, view.ascending, view.text)


def pressed(view: View, key: str, moment: Moment) -> View:
    """The view after a key; ``moment`` is what is shown."""
    if view.typing:
        return _typed(view, key)
    if view.helps:
        return replace(view, helps=False, quits=key == "q")
    match key:
        case "q":
            return replace(view, quits=True)
        case "?" | "h":
            return replace(view, helps=True)
        case " " | "p" | "f":
            return replace(view, frozen=not view.frozen)
        case "esc":
            return replace(view, **_back(view))
    return _moved(view, key, moment) if view.story else _in_table(view, key, moment)


def _typed(view: View, key: str) -> View:
    match key:
        case "enter":
            return replace(view, typing=False)
        case "esc":
            return replace(view, typing=False, text="")
        case "backspace":
            return replace(view, text=view.text[:-1], cursor=0)
        case _:
            return replace(view, text=view.text + key, cursor=0) if len(key) == 1 else view


def _back(view: View) -> dict[str, Any]:
    """What Esc changes: the innermost of what is out of the ordinary."""
    if view.story:
        return {"story": 0, "cursor": 0}
    if view.text:
        return {"text": "", "cursor": 0}
    return {"frozen": False}


def _moved(view: View, key: str, moment: Moment) -> View:
    last = max(len(places_of(view, moment)) - 1, 0) if not view.story else 1 << 30
    ends = {"home": 0, "end": last}
    wanted = ends.get(key, view.cursor + _STEPS.get(key, 0))
    return replace(view, cursor=min(max(wanted, 0), last))


def _in_table(view: View, key: str, moment: Moment) -> View:
    if key in _TURNS:
        at = (TABS.index(view.listing) + _TURNS[key]) % len(TABS)
        return replace(view, listing=TABS[at], cursor=0, text="")
    if key.isdigit() and 0 < int(key) <= len(TABS):
        return replace(view, listing=TABS[int(key) - 1], cursor=0, text="")
    match key:
        case "s" | "S":
            return _resorted(view, moment, 1 if key == "s" else -1)
        case "r":
            return replace(view, ascending=not view.ascending, cursor=0)
        case "/":
            return replace(view, typing=True, text="", cursor=0)
        case "enter":
            return _opened(view, moment)
    return _moved(view, key, moment)


def _resorted(view: View, moment: Moment, step: int) -> View:
    listing = listing_of(moment, view.listing)
    names = [column.name for column in listing.columns]
    by = names[(names.index(order_of(view, listing)) + step) % len(names)]
    return replace(view, orders={**view.orders, listing.name: by}, cursor=0)


def _opened(view: View, moment: Moment) -> View:
    """Into the row that is chosen."""
    places = places_of(view, moment)
    if not len(places):
        return view
    listing = listing_of(moment, view.listing)
    place = places[min(view.cursor, len(places) - 1)]
    match view.listing:
        case "buffers" | "mappings":
            return replace(view, story=int(listing.keys[place]), cursor=0)
        case _:
            within = listing.rows(np.array([place]))[0][_WHOSE[view.listing]]
            return replace(view, listing="buffers", text=within, cursor=0)
