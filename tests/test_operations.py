# SPDX-License-Identifier: Apache-2.0
"""From what the programs tell of an exporter's functions to probes on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dmabuf_trace import schema, symbols
from dmabuf_trace.blocks import Probed
from dmabuf_trace.operations import OperationProbes
from dmabuf_trace.probes import PROBES, Probe

LATE = next(probe for probe in PROBES if probe.late)
KALLSYMS = """\
ffffffff81000000 T in_the_kernel
ffffffffc0100000 t ref_map\t[dmabuf_ref]
ffffffffc0200000 t ref_map\t[dmabuf_ref]
"""


class Loader:
    """Keeps what it is asked to probe; refuses ``refused``."""

    def __init__(self, refused: str = "") -> None:
        self.asked: list[str] = []
        self._refused = refused

    def probe_late(self, probe: Probe, symbol: str) -> str:
        assert probe is LATE
        self.asked.append(symbol)
        return "no room" if symbol == self._refused else ""


@pytest.fixture(autouse=True)
def _kallsyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kallsyms"
    path.write_text(KALLSYMS)
    resolve = symbols.resolve
    monkeypatch.setattr(symbols, "resolve", lambda wanted: resolve(wanted, path))


def told(**functions: int) -> NDArray[np.void]:
    names = np.zeros(len(functions), schema.NAME_DTYPE)
    for record, (operation, address) in zip(names, functions.items(), strict=True):
        record["type"], record["id"] = schema.NAME_TYPES["operation"], address
        record["pid"] = schema.OPERATIONS.index(operation) + 1
    return names


def feed(probes: OperationProbes, names: NDArray[np.void]) -> list[tuple[Probed, ...]]:
    """Feed the names, then nothing until all are probed; what was probed at a time."""
    rounds = [probes.feed(names)]
    while probes.busy:
        rounds.append(probes.feed(told()))
    return [rows for rows in rounds if rows]


def test_one_function_at_a_time_by_module_and_name_or_by_address() -> None:
    loader = Loader(refused="0xffffffff81000010")
    probes = OperationProbes(loader, LATE)
    functions = {"map": 0xFFFFFFFFC0100000, "pin": 0xFFFFFFFF81000000, "vmap": 0xFFFFFFFF81000010}

    rounds = feed(probes, told(**functions))

    assert [len(rows) for rows in rounds] == [1, 1, 1]
    assert loader.asked == ["dmabuf_ref:ref_map", "0xffffffff81000000", "0xffffffff81000010"]
    assert [(row.operation, row.symbol, row.reason) for (row,) in rounds] == [
        ("map", "dmabuf_ref:ref_map", ""),
        ("pin", "in_the_kernel", ""),
        ("vmap", "in_the_kernel+0x10", "no room"),
    ]


def test_a_module_that_is_back_has_its_probes_already() -> None:
    loader = Loader()
    probes = OperationProbes(loader, LATE)
    feed(probes, told(map=0xFFFFFFFFC0100000))

    assert feed(probes, told(map=0xFFFFFFFFC0200000)) == []
    assert loader.asked == ["dmabuf_ref:ref_map"]
