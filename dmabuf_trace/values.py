# SPDX-License-Identifier: Apache-2.0
"""Kinds of values in a policy: how each is written in TOML, and read.

Must not know what the values are for.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any, Final, Literal

from dmabuf_trace.errors import InputError
from dmabuf_trace.units import parse_duration, parse_size

Kind = Literal["count", "size", "duration", "share", "rate", "flag", "pattern", "text", "date"]

EXAMPLES: Final[dict[Kind, str]] = {
    "count": "0",
    "size": '"64K"',
    "duration": '"1s"',
    "share": '"5%"',
    "rate": "0.5",
    "flag": "true",
    "pattern": '"*"',
    "text": '"..."',
    "date": "2027-01-31",
}
"""One of each kind, in TOML."""

_MAX: Final = 1 << 63


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value < _MAX


def _count(value: Any) -> int:
    if _is_whole(value):
        return int(value)
    raise InputError(f"{_shown(value)} is no count", "write a whole number, as 0 or 20")


def _size(value: Any) -> int:
    if _is_whole(value):
        return int(value)
    return parse_size(_text(value, 'write bytes as a number, or "64K", "8M", "1G"'))


def _duration(value: Any) -> int:
    hint = 'write "500us", "20ms", "1.5s", "2m" or "1h"'
    if type(value) in (int, float):
        raise InputError(f"{_shown(value)} has no unit", hint)
    return parse_duration(_text(value, hint))


def _share(value: Any) -> float:
    if isinstance(value, str) and (
        found := re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?)%", value, re.ASCII)
    ):
        value = float(found[1]) / 100
    if type(value) in (int, float) and 0 <= value <= 1:
        return float(value)
    raise InputError(f"{_shown(value)} is no share", 'write "5%" or 0.05')


def _rate(value: Any) -> float:
    if type(value) in (int, float) and 0 <= value < _MAX:
        return float(value)
    raise InputError(f"{_shown(value)} is no number", "write 0, 0.5 or 20")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InputError(f"{_shown(value)} is neither true nor false")


def _date(value: Any) -> datetime.date:
    if type(value) is datetime.date:
        return value
    raise InputError(f"{_shown(value)} is no date", "write 2027-01-31, without quotes")


def _text(value: Any, hint: str = "write a text in quotes") -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise InputError(f"{_shown(value)} is no text", hint)


_READ: Final[dict[Kind, Callable[[Any], Any]]] = {
    "count": _count,
    "size": _size,
    "duration": _duration,
    "share": _share,
    "rate": _rate,
    "flag": _flag,
    "date": _date,
    "pattern": _text,
    "text": _text,
}


def read(kind: Kind, value: Any) -> Any:
    """What a value of TOML is as this kind: int (count, bytes, ns), float, bool, date or str.

    Raises:
        InputError: it is of another kind.
    """
    return _READ[kind](value)


def _shown(value: Any) -> str:
    """A value of a file in a message: not all of a long one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def written(kind: Kind, value: Any) -> str:
    """A value as TOML, such that :func:`read` gives it back."""
    match kind:
        case "flag":
            return "true" if value else "false"
        case "duration":
            return f'"{_with_unit(value)}"'
        case "pattern" | "text":
            return quoted(value)
        case _:
            return str(value)


def _with_unit(ns: int) -> str:
    units = (("s", 10**9), ("ms", 10**6), ("us", 10**3))
    fitting = (f"{ns // size}{unit}" for unit, size in units if ns % size == 0)
    return next(fitting, f"{ns}ns")


def quoted(text: str) -> str:
    """A text as TOML: whatever is not plain is escaped."""
    plain = (char if " " <= char <= "~" and char not in '"\\' else _escaped(char) for char in text)
    return f'"{"".join(plain)}"'


def literally(text: str) -> str:
    """A pattern that matches this text alone."""
    return re.sub(r"([*?[])", r"[\1]", text)


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    code = ord(char)
    # a lone surrogate stands for a byte that is no UTF-8, and TOML can't have it
    return f"\\U{0xFFFD if 0xD800 <= code < 0xE000 else code:08X}"
