# SPDX-License-Identifier: Apache-2.0
"""A table of arrays, one a column: a hundred thousand rows are sorted and filtered at once.

Texts are made once per different id, and rows only of what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.analysis import Column

Array = NDArray[Any]
Row = dict[str, Any]

UNSEEN: Final = -1
"""In a column of numbers: not known, or not observed."""


class Texts:
    """A column of texts that are few: ``codes`` are places in the sorted ``distinct`` ones."""

    def __init__(self, codes: Array, texts: list[str]) -> None:
        self.distinct = sorted(set(texts))
        ranks = {text: rank for rank, text in enumerate(self.distinct)}
        self.codes = np.array([ranks[text] for text in texts], np.int64)[codes]

    @classmethod
    def of(cls, keys: Array, text: Callable[[int], str]) -> Texts:
        """The text of each key, made once per different key."""
        distinct, codes = np.unique(keys, return_inverse=True)
        return cls(codes, [text(key) for key in distinct.tolist()])

    def at(self, places: Array) -> list[str]:
        """Those at these places."""
        return [self.distinct[code] for code in self.codes[places].tolist()]


Cells = Mapping[str, Array | Texts]


@dataclass(frozen=True, slots=True)
class Listing:
    """``cells`` has an array per column, or texts; ``order`` is the column that sorts it at first.

    ``keys`` tell the rows apart from one moment to the next. ``complete`` is how many rows there
    would be, where those of least interest were left out.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    cells: Cells
    keys: Array
    order: str
    complete: int

    def find(self, text: str) -> Array:
        """Places of the rows that have a text in one of their texts, whatever its case."""
        if not text:
            return np.arange(len(self.keys))
        mine = np.zeros(len(self.keys), np.bool_)
        wanted = text.casefold()
        for cells in self.cells.values():
            if isinstance(cells, Texts):
                has = [wanted in each.casefold() for each in cells.distinct]
                mine |= np.array(has, np.bool_)[cells.codes]
        return np.flatnonzero(mine)

    def sorted(self, places: Array, by: str, *, ascending: bool) -> Array:
        """Places in the order of a column; equal ones by their keys."""
        cells = self.cells[by]
        values = cells.codes if isinstance(cells, Texts) else cells
        order = np.lexsort((self.keys[places], values[places]))
        return places[order if ascending else order[::-1]]

    def rows(self, places: Array) -> list[Row]:
        """Rows at these places; what is not known is None."""
        columns = [self._column(column.name, places) for column in self.columns]
        names = [column.name for column in self.columns]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _column(self, name: str, places: Array) -> list[Any]:
        cells = self.cells[name]
        if isinstance(cells, Texts):
            return cells.at(places)
        return [None if value == UNSEEN else value for value in cells[places].tolist()]
