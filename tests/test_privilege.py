# SPDX-License-Identifier: Apache-2.0
"""Which capabilities are missing, from a status as kernels write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmabuf_trace.loader import privilege


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        ("000001ffffffffff", []),
        ("0000000000200000", []),  # CAP_SYS_ADMIN
        ("000000c000000000", []),  # CAP_BPF and CAP_PERFMON
        ("0000008000000000", ["CAP_PERFMON"]),
        ("0000004000000000", ["CAP_BPF"]),
        ("00000000a80425fb", ["CAP_BPF", "CAP_PERFMON"]),  # a container's root
    ],
)
def test_what_is_missing(tmp_path: Path, effective: str, missing: list[str]) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\n")
    assert privilege.lacking(status) == missing
