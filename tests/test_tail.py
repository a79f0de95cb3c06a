# SPDX-License-Identifier: Apache-2.0
"""A recording that is followed while it is written."""

from __future__ import annotations

from pathlib import Path

from dmabuf_trace.tail import Tail
from tests.build import KIB, MS, Build


def there(tail: Tail, since: int) -> list[tuple[int, int]]:
    return [(int(row["inode"]), int(row["size"])) for row in tail.exported_since(since)]


def test_it_takes_what_is_new_whatever_the_file_ends_with(tmp_path: Path) -> None:
    k = Build()
    first = k.export(size=4 * KIB)
    k.wait(MS)
    since = k.now
    second = k.export(size=8 * KIB)
    k.mark("one")
    k.release(first)
    k.wait(MS)
    k.release(second)
    k.lose("map", "ring_full", 3)
    k.mark("two")
    k.export(errno=12)
    whole = k.write(tmp_path / "whole.dbt").read_bytes()
    path = tmp_path / "grows.dbt"
    path.write_bytes(whole[: len(whole) // 3])
    tail, seen = Tail(path), set()

    for length in range(len(whole) // 3, len(whole) + 1):
        with path.open("ab") as file:
            file.write(whole[path.stat().st_size : length])
        tail.advance()
        seen.add((tail.exports, tuple(there(tail, since)), int(tail.losses.sum())))

    assert {state[1] for state in seen} == {(), ((42, 8 * KIB),)}
    assert (tail.exports, there(tail, 0), int(tail.losses.sum())) == (2, [], 3)
    tail.advance()
    assert tail.exports == 2
    tail.close()


def test_what_a_full_look_does_not_show_is_gone(tmp_path: Path) -> None:
    k = Build(lists_all=True)
    k.export()
    lost = k.export()
    k.vanish(lost)
    k.wait(MS)
    k.snapshot("during")
    tail = Tail(k.write(tmp_path / "x.dbt", cut=True))

    tail.advance()

    assert there(tail, 0) == [(41, 4 * KIB)]
    tail.close()
