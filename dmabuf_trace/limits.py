# SPDX-License-Identifier: Apache-2.0
"""How much a test may leave behind: what its marker says, and whether that is kept.

Must not know pytest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from dmabuf_trace.errors import InputError
from dmabuf_trace.holders import SHAPES
from dmabuf_trace.units import bytes_text, count_text, parse_size

MARKER: Final = "limit_dmabuf_leaks"
_NAMES: Final = ("buffers", "bytes", "shapes", "exporter")


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many ``buffers`` and ``size`` bytes of them; None: as many as you like.

    Only those of ``shapes`` count, and of ``exporter``; empty: all.
    """

    buffers: int | None = 0
    size: int | None = None
    shapes: tuple[str, ...] = ()
    exporter: str = ""

    @classmethod
    def parse(cls, positional: Sequence[Any], named: Mapping[str, Any]) -> Self:
        """From what a marker was given; ``bytes`` alone allows any number of buffers.

        Raises:
            InputError: that makes no sense.
        """
        if positional:
            raise InputError(f"{MARKER}: name the arguments", f"there are: {', '.join(_NAMES)}")
        if unknown := sorted(set(named) - set(_NAMES)):
            raise InputError(f"{MARKER}: no argument {unknown[0]}", f"try: {', '.join(_NAMES)}")
        size = None if "bytes" not in named else _size(named["bytes"])
        buffers = None if size is not None and "buffers" not in named else named.get("buffers", 0)
        if buffers is not None and not _is_number(buffers):
            raise InputError(f"{MARKER}: buffers={buffers!a} is not a number of buffers")
        exporter = named.get("exporter", "")
        if not isinstance(exporter, str):
            raise InputError(f"{MARKER}: exporter={exporter!a} is not a name")
        return cls(buffers, size, _shapes(named.get("shapes", ())), exporter)

    def allows(self, buffers: int, size: int) -> bool:
        """Whether so many, of so many bytes together, are few enough."""
        few = self.buffers is None or buffers <= self.buffers
        return few and (self.size is None or size <= self.size)

    def concerns(self, shape: str, exporter: str | None) -> bool:
        """Whether such a buffer counts; one of which that is not known does."""
        is_mine = not self.exporter or exporter in (self.exporter, None)
        return is_mine and (not self.shapes or shape in (*self.shapes, "unknown"))

    def __str__(self) -> str:
        """``0 buffers``, ``2 buffers of 64 KiB``, with what they are restricted to."""
        parts = []
        if self.buffers is not None:
            parts.append(count_text(self.buffers, "buffer"))
        if self.size is not None:
            parts.append(bytes_text(self.size))
        of = [*self.shapes, *([self.exporter] if self.exporter else [])]
        return ", ".join(parts) + (f" ({', '.join(of)})" if of else "")


def _is_number(value: Any) -> bool:
    return type(value) is int and value >= 0


def _size(value: Any) -> int:
    if _is_number(value):
        return int(value)
    if not isinstance(value, str):
        raise InputError(f"{MARKER}: bytes={value!a} is not a size", "write 4096 or '64K'")
    try:
        return parse_size(value)
    except InputError as error:
        raise InputError(f"{MARKER}: bytes={error}", error.hint) from None


def _shapes(value: Any) -> tuple[str, ...]:
    shapes = (value,) if isinstance(value, str) else value
    if not isinstance(shapes, (tuple, list, set, frozenset)) or not set(shapes) <= set(SHAPES):
        raise InputError(f"{MARKER}: shapes={value!a}", f"there are: {', '.join(SHAPES)}")
    return tuple(shape for shape in SHAPES if shape in shapes)
