# SPDX-License-Identifier: Apache-2.0
"""Elements of a page. Whatever is text is escaped here, in contents and attributes alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self
from xml.etree import ElementTree as ET

from dmabuf_trace.render.facts import date
from dmabuf_trace.render.text import printable

if TYPE_CHECKING:
    from datetime import datetime

    from dmabuf_trace.report import Recording

Child = ET.Element | str


def element(name: str, *children: Child, **attributes: str | int | float) -> ET.Element:
    """An element; of an attribute's name a last ``_`` is left out, others become ``-``."""
    found = ET.Element(name)
    for key, value in attributes.items():
        text = f"{value:g}" if isinstance(value, float) else str(value)
        found.set(key.rstrip("_").replace("_", "-"), printable(text))
    return extend(found, children)


def extend(parent: ET.Element, children: Iterable[Child]) -> ET.Element:
    """Append elements and texts to an element, which is returned."""
    for child in children:
        if isinstance(child, ET.Element):
            parent.append(child)
        elif len(parent):
            parent[-1].tail = (parent[-1].tail or "") + printable(child)
        else:
            parent.text = (parent.text or "") + printable(child)
    return parent


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
    """The clock on the wall at times since the trace, or the part of it that is shown, began."""

    began: datetime | None

    @classmethod
    def of(cls, recording: Recording) -> Self:
        """That of a recording."""
        first = recording.window_ns[0] if recording.window_ns else 0
        return cls(date(recording.began_ns and recording.began_ns + first))

    def at(self, ns: int) -> str:
        """The time, to a second; where that is not known, how much later it is."""
        if self.began is None:
            return f"{ns:,} ns after the begin"
        return (self.began + timedelta(seconds=ns // 10**9)).strftime("%Y-%m-%d %H:%M:%S UTC")
