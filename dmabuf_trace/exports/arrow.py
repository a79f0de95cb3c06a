# SPDX-License-Identifier: Apache-2.0
"""Tables as Arrow (IPC file) and as Parquet, by pyarrow.

Types are those of the tables: times stay int64 ns, a column without gaps is not nullable. Each
column has its ``description``; the schema has the recording's facts as JSON, by :data:`KEY`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from dmabuf_trace.columns import TABLES

if TYPE_CHECKING:
    import pandas as pd

    from dmabuf_trace.exports.tables import Add, Facts

KEY: Final = "dmabuf_trace"
ROW_GROUP: Final = 1 << 20

_TYPES: Final = {
    "int64": (pa.int64(), False),
    "uint64": (pa.uint64(), False),
    "bool": (pa.bool_(), False),
    "Int64": (pa.int64(), True),
    "boolean": (pa.bool_(), True),
    "Float64": (pa.float64(), True),
    "string": (pa.string(), True),
}
"""By dtype of the column: its type, and whether it may have gaps."""


@contextmanager
def arrow(file: IO[bytes], first: pd.DataFrame, table: str, facts: Facts) -> Iterator[Add]:
    """An Arrow IPC file, also known as Feather V2."""
    schema = _schema(first, table, facts)
    with pa.ipc.new_file(file, schema) as writer:
        yield lambda frame: writer.write_table(_table(frame, schema))


@contextmanager
def parquet(file: IO[bytes], first: pd.DataFrame, table: str, facts: Facts) -> Iterator[Add]:
    """A Parquet file, compressed."""
    schema = _schema(first, table, facts)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield lambda frame: writer.write_table(_table(frame, schema), row_group_size=ROW_GROUP)


def _schema(frame: pd.DataFrame, table: str, facts: Facts) -> pa.Schema:
    fields = []
    for name, text in TABLES[table].items():
        kind, has_gaps = _TYPES[str(frame[name].dtype)]
        description = {"description": text}
        fields.append(pa.field(name, kind, nullable=has_gaps, metadata=description))
    return pa.schema(fields, metadata={KEY: json.dumps({"table": table, **facts()})})


def _table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    columns = [pa.array(frame[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)
