# SPDX-License-Identifier: Apache-2.0
"""What the marker ``limit_dmabuf_leaks`` says, and what it allows."""

from __future__ import annotations

from typing import Any

import pytest

from dmabuf_trace.errors import InputError
from dmabuf_trace.limits import Limit

KIB = 1 << 10


@pytest.mark.parametrize(
    ("named", "limit", "text"),
    [
        ({}, Limit(), "0 buffers"),
        ({"buffers": 2}, Limit(2), "2 buffers"),
        ({"bytes": "64K"}, Limit(None, 64 * KIB), "64 KiB"),
        ({"bytes": 0}, Limit(None, 0), "0 B"),
        ({"buffers": 1, "bytes": 4096}, Limit(1, 4096), "1 buffer, 4 KiB"),
        ({"shapes": "kernel"}, Limit(shapes=("kernel",)), "0 buffers (kernel)"),
        (
            {"shapes": {"kernel", "fd"}, "exporter": "system"},
            Limit(shapes=("fd", "kernel"), exporter="system"),
            "0 buffers (fd, kernel, system)",
        ),
    ],
)
def test_what_it_says(named: dict[str, Any], limit: Limit, text: str) -> None:
    assert Limit.parse((), named) == limit
    assert str(limit) == text


@pytest.mark.parametrize(
    ("positional", "named", "message"),
    [
        ((0,), {}, "name the arguments"),
        ((), {"bufers": 1}, "no argument bufers"),
        ((), {"buffers": -1}, "buffers=-1 is not a number of buffers"),
        ((), {"buffers": True}, "buffers=True is not"),
        ((), {"buffers": "1"}, "buffers='1' is not"),
        ((), {"bytes": "lots"}, "bytes='lots' is not a size"),
        ((), {"bytes": 1.5}, "bytes=1.5 is not a size"),
        ((), {"shapes": ("fd", "\x1b")}, r"shapes=\('fd', '\\x1b'\)"),
        ((), {"shapes": 1}, "shapes=1"),
        ((), {"exporter": None}, "exporter=None is not a name"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    positional: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"limit_dmabuf_leaks: {message}"):
        Limit.parse(positional, named)


def test_what_it_allows() -> None:
    assert Limit().allows(0, 0)
    assert not Limit().allows(1, 0)
    assert Limit(None, 4096).allows(100, 4096)
    assert not Limit(None, 4096).allows(1, 4097)
    assert not Limit(1, 4096).allows(2, 4096)


def test_whom_it_concerns() -> None:
    assert Limit().concerns("fd", "system")
    assert not Limit(shapes=("kernel",)).concerns("fd", "system")
    assert Limit(shapes=("kernel",)).concerns("unknown", "system")
    assert not Limit(exporter="udmabuf").concerns("fd", "system")
    assert Limit(exporter="udmabuf").concerns("fd", None)
