# SPDX-License-Identifier: Apache-2.0
"""Probes onto exporters' functions, as the programs come upon them.

A name record tells of a function and which operation it is. Functions of modules are probed by
module and name: the kernel takes such a probe away with its module and puts it back with it.
Others are probed by address, as names in the kernel are not unique.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace import schema, symbols
from dmabuf_trace.blocks import Probed
from dmabuf_trace.probes import Probe

_OPERATION: Final = schema.NAME_TYPES["operation"]


class Loader(Protocol):
    """Whoever can put the late programs onto a function."""

    def probe_late(self, probe: Probe, symbol: str) -> str:
        """Probe it; "" or the reason why not."""


class OperationProbes:
    """What is probed so far; ``probe`` is the late probe whose programs go onto each function."""

    def __init__(self, loader: Loader, probe: Probe) -> None:
        self._loader = loader
        self._probe = probe
        self._known: set[str] = set()
        self._told: dict[int, int] = {}
        self._looker = ThreadPoolExecutor(1, "symbols")
        self._look: Future[list[tuple[str, str, str]]] | None = None
        self._waiting: deque[tuple[str, str, str]] = deque()

    def feed(self, names: NDArray[np.void]) -> tuple[Probed, ...]:
        """Take what a batch of names tells, and probe one function that waits for it.

        One at a time, as it takes milliseconds in which nobody drains the rings. Their symbols are
        looked up by a thread meanwhile, as that takes a hundred.
        """
        told = names[names["type"] == _OPERATION]
        self._told.update(zip(told["id"].tolist(), told["pid"].tolist(), strict=True))
        if self._look and self._look.done():
            self._enqueue(self._look.result())
            self._look = None
        if self._told and not self._look:
            self._look, self._told = self._looker.submit(_find, self._told), {}
        if not self._waiting:
            return ()
        operation, symbol, target = self._waiting.popleft()
        reason = self._loader.probe_late(self._probe, target)
        row = Probed(time.monotonic_ns(), self._probe.kinds[0], operation, symbol, reason)
        return (row,)

    @property
    def busy(self) -> bool:
        """Whether there are functions that were told of and not probed yet."""
        return bool(self._told or self._look or self._waiting)

    def _enqueue(self, found: list[tuple[str, str, str]]) -> None:
        for operation, symbol, target in found:
            if target not in self._known:  # else its module is back, and so is the probe
                self._known.add(target)
                self._waiting.append((operation, symbol, target))

    def close(self) -> None:
        """Look for nothing more."""
        self._looker.shutdown(cancel_futures=True)


def _find(functions: dict[int, int]) -> list[tuple[str, str, str]]:
    """Operation, symbol and what to probe, of functions by address."""
    texts = symbols.resolve(functions)
    return [
        (schema.OPERATIONS[number - 1], *_target(address, texts[address]))
        for address, number in functions.items()
    ]


def _target(address: int, text: str) -> tuple[str, str]:
    """How a function is called, and how it is probed."""
    name, _, place = text.partition("+")
    offset, _, module = place.partition(" ")
    if offset != "0x0":
        return text, f"{address:#x}"
    module = module.strip("[]")
    return (f"{module}:{name}",) * 2 if module else (name, f"{address:#x}")
