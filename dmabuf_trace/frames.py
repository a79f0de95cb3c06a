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
