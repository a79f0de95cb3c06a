# SPDX-License-Identifier: Apache-2.0
"""What comes next is made while what there is gets used: by another processor, if there is one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """The items, none of them None, in their order, up to ``count`` made in advance in a thread.

    What it raises to make one is raised in the place of that one.
    """
    context = copy_context()

    def make() -> T | None:
        return context.run(lambda: next(items, None))

    thread = ThreadPoolExecutor(1)
    try:
        made: deque[Future[T | None]] = deque()
        while True:
            while len(made) <= count:
                made.append(thread.submit(make))
            if (item := made.popleft().result()) is None:
                return
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
