# SPDX-License-Identifier: Apache-2.0
"""Sizes and lengths of time, as people write and read them."""

from __future__ import annotations

import re
from typing import Final

from dmabuf_trace.errors import InputError

_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ns|us|ms|s|m|h)", re.ASCII)
_SIZE: Final = re.compile(r"(\d{1,15})([kmg]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_MULTIPLES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def parse_duration(text: str) -> int:
    """ns of ``500ms``, ``1.5s``, ``2m``.

    Raises:
        InputError: it is not written so.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a duration", "write 500us, 20ms, 1.5s, 2m or 1h")
    return round(float(match[1]) * _NS[match[2]])


def parse_size(text: str) -> int:
    """Bytes of ``4096``, ``64K``, ``8M``, ``1GiB``: powers of 1024.

    Raises:
        InputError: it is not written so.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a size", "write 4096, 64K, 8M or 1G")
    return int(match[1]) * _MULTIPLES[match[2].lower()]


def parse_count(text: str) -> int:
    """A whole number.

    Raises:
        InputError: it is none.
    """
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise InputError(f"{text!r} is no whole number", "write 0 or 20")
    return int(text)


def duration_text(ns: int) -> str:
    """Three digits and a unit: ``1.25ms``; minutes and more as ``2m03s``, ``1h05m``."""
    if ns < 0:
        return "-" + duration_text(-ns)
    if ns < 1_000:
        return f"{ns}ns"
    for unit in ("us", "ms", "s"):
        value = ns / _NS[unit]
        if value < (999.5 if unit != "s" else 59.95):
            return f"{_three_digits(value)}{unit}"
    seconds = round(ns / _NS["s"])
    if seconds < 3_600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3_600}h{seconds % 3_600 // 60:02}m"


def rate_text(per_second: float) -> str:
    """Three digits per second, minute or hour: ``60/s``, ``1.5/min``, ``0.25/h``."""
    if per_second < 0:
        return "-" + rate_text(-per_second)
    for unit, seconds in (("s", 1), ("min", 60)):
        if per_second * seconds >= 0.995 or not per_second:
            return f"{_three_digits(per_second * seconds)}/{unit}"
    return f"{_three_digits(per_second * 3_600)}/h"


def bytes_text(size: int) -> str:
    """Three digits and a binary unit: ``4 KiB``, ``1.5 MiB``; below 1 KiB exactly."""
    if size < 0:
        return "-" + bytes_text(-size)
    value, unit = float(size), 0
    while value >= 1023.5 and unit < len(_BINARY) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size} B" if not unit else f"{_three_digits(value)} {_BINARY[unit]}"


def ratio_text(value: float) -> str:
    """Three digits: ``1``, ``0.25``, ``-1,200``."""
    return f"-{_three_digits(-value)}" if value < 0 else _three_digits(value)


def _three_digits(value: float) -> str:
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def count_text(number: int, one: str, many: str = "") -> str:
    """``1 event``, ``2 events``, ``1,000 events``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
