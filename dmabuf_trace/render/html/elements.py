# SPDX-License-Identifier: Apache-2.0
"""Elements of a page. Whatever is text is escaped here, in contents and attributes alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from xml.etree import ElementTree as ET

from dmabuf_trace.render.facts import date, wall_clock
from dmabuf_trace.render.text import printable

if TYPE_CHECKING:
    from dmabuf_trace.report import Recording

Child = ET.Element | str


def element(name: str, *children: Child, **attributes: str | int | float) -> ET.Element:
    """An element; of an attribute's name a last ``_`` is left out, others become ``-``."""
    found = ET.Element(name)
    for key, value in attributes.items():
        text = f"{value:g}" if isinstance(value, float) else str(value)
        found.set(key.rstrip("_").replace("_", "-"), printable(text))
    for child in children:
        if isinstance(child, ET.Element):
            found.append(child)
        elif len(found):
            found[-1].tail = (found[-1].tail or "") + printable(child)
        else:
            found.text = (found.text or "") + printable(child)
    return found


def folded(title: str, *children: Child, is_open: bool = False, **attributes: str) -> ET.Element:
    """What can be folded away."""
    found = element("details", element("summary", title), *children, **attributes)
    if is_open:
        found.set("open", "open")
    return found


def written(found: ET.Element) -> str:
    """As HTML, in ASCII."""
    text: bytes = ET.tostring(found, encoding="us-ascii", method="html")
    return text.decode("ascii")


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock on the wall; ``began_ns`` is when the trace, or what is shown of it, began."""

    began_ns: int | None

    @classmethod
    def of(cls, recording: Recording) -> Self:
        """That of a recording."""
        first = recording.window_ns[0] if recording.window_ns else 0
        began = recording.began_ns
        return cls(began + first if began and date(began + first) else None)

    def at(self, ns: int) -> str:
        """The time then, to a second; where that is not known, how much later it is."""
        found = None if self.began_ns is None else date(self.began_ns + ns)
        return wall_clock(found) if found else f"{ns:,} ns after the begin"
