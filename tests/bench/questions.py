# SPDX-License-Identifier: Apache-2.0
"""Questions to a trace in text, a line per event, asked as one does who has nothing but that text.

A short script each, line by line, with a dict of what is open. They know nothing of losses, buffers
from before the trace or addresses that come again after a lost end.
"""

from __future__ import annotations

import sys


def open_buffers(path: str) -> None:
    """Which buffers are open at the end, oldest first?"""
    alive: dict[str, tuple[float, int, str]] = {}
    with open(path) as trace:  # noqa: PTH123 - as such a script has it
        for line in trace:
            task, _cpu, ts, kind, rest = line.split(maxsplit=4)
            if kind not in ("export:", "release:"):
                continue
            values = dict(pair.split("=", 1) for pair in rest.split())
            if values["ret"] != "0":
                continue
            if kind == "export:":
                alive[values["buffer"]] = float(ts[:-1]), int(values["value"], 16), task
            else:
                alive.pop(values["buffer"], None)
    for buffer, (since, size, task) in sorted(alive.items(), key=lambda item: item[1]):
        print(buffer, since, size, task)


def longest_mappings(path: str) -> None:
    """Which mappings were held for longest, on which device?"""
    mapped: dict[tuple[str, str], list[float]] = {}
    held: list[tuple[float, str, str]] = []
    with open(path) as trace:  # noqa: PTH123
        for line in trace:
            _task, _cpu, ts, kind, rest = line.split(maxsplit=4)
            if kind not in ("map:", "unmap:"):
                continue
            values = dict(pair.split("=", 1) for pair in rest.split())
            key = values["object"], values["value"]
            if kind == "map:" and values["ret"] == "0":
                mapped.setdefault(key, []).append(float(ts[:-1]))
            elif kind == "unmap:" and mapped.get(key):
                begin = mapped[key].pop(0)
                held.append((float(ts[:-1]) - begin, values["buffer"], values["name"]))
    for row in sorted(held, reverse=True)[:20]:
        print(*row)


def time_in_map(path: str) -> None:
    """How often is each device's map called, for how long in all, at most, at the 99th of 100?"""
    times: dict[str, list[int]] = {}
    with open(path) as trace:  # noqa: PTH123
        for line in trace:
            _task, _cpu, _ts, kind, rest = line.split(maxsplit=4)
            if kind != "map:":
                continue
            values = dict(pair.split("=", 1) for pair in rest.split())
            if values["ret"] == "0":
                times.setdefault(values["name"], []).append(int(values["dur"]))
    for device, taken in sorted(times.items()):
        taken.sort()
        print(device, len(taken), sum(taken), taken[-1], taken[len(taken) * 99 // 100])


QUESTIONS = {ask.__name__: ask for ask in (open_buffers, longest_mappings, time_in_map)}

if __name__ == "__main__":
    QUESTIONS[sys.argv[1]](sys.argv[2])
