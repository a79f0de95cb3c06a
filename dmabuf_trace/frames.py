# SPDX-License-Identifier: Apache-2.0
"""numpy columns -> pandas columns: integers keep their type, gaps are NA, ids become texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmabuf_trace.columns import TEXT

Array = NDArray[Any]


def signed(values: Array) -> NDArray[np.int64]:
    """Unsigned 64-bit numbers that fit: inode numbers, times, sizes."""
    return values.astype(np.int64)


def gaps(values: Array, known: Array) -> pd.Series[int]:
    """Integers with NA where they are not known."""
    return pd.Series(pd.arrays.IntegerArray(values.astype(np.int64), ~np.asarray(known, np.bool_)))


def strings(values: Array, known: Array | None = None) -> pd.Series[str]:
    """Texts with NA where they are not known."""
    series = pd.Series(values, dtype=TEXT)
    return series if known is None else series.where(known)


def chosen(few: Sequence[str | None], index: Array, known: Array | None = None) -> pd.Series[str]:
    """Texts by their places among a few, with NA where they are not known."""
    texts = pd.array(np.array(few, object), dtype=TEXT)
    places = index.astype(np.int64)
    if known is not None:
        places[~known] = -1
    return pd.Series(texts.take(places, allow_fill=True))


def texts(keys: Array, text: Callable[[int], str], known: Array | None = None) -> pd.Series[str]:
    """The text of each id, looked up once per id."""
    index, distinct = pd.factorize(keys)
    return chosen([text(key) for key in distinct.tolist()], index, known)


def look_up(keys: Array, sorted_ids: Array, values: Array) -> Array:
    """``values`` at the row whose id is the key; zeros (or "") for a key that has none."""
    return at_places(values, places(keys, sorted_ids))


def at_places(values: Array, found: Array) -> Array:
    """``values`` at these :func:`places`; zero (or "") where that is none."""
    return np.append(values, np.zeros(1, values.dtype))[found]


def places(keys: Array, sorted_ids: Array) -> Array:
    """The row whose id is the key; -1 for a key that has none."""
    if not len(sorted_ids):
        return np.full(len(keys), -1)
    index = np.minimum(np.searchsorted(sorted_ids, keys), len(sorted_ids) - 1)
    return np.where(sorted_ids[index] == keys, index, -1)
