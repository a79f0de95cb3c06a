# SPDX-License-Identifier: Apache-2.0
"""Addresses to names."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmabuf_trace import symbols

KALLSYMS = """\
ffffffff81000000 T _text
ffffffff81001000 T dma_buf_export
ffffffff81001000 t alias_of_it
ffffffff81002000 t dma_buf_ioctl
ffffffffc0100000 t ref_map\t[dmabuf_ref]
ffffffffc0000000 t vgem_open\t[vgem]
"""


def test_a_function_reaches_to_the_next_symbol(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text(KALLSYMS)

    assert symbols.extent("dma_buf_export", path) == (0xFFFFFFFF81001000, 0xFFFFFFFF81002000)
    assert symbols.extent("dma_buf", path) == (0, 0)
    path.write_text("0000000000000000 T dma_buf_export\n0000000000000000 T other\n")
    assert symbols.extent("dma_buf_export", path) == (0, 0), "hidden addresses"


@pytest.fixture
def kallsyms(tmp_path: Path) -> Path:
    path = tmp_path / "kallsyms"
    path.write_text(KALLSYMS)
    return path


def test_the_nearest_symbol_below_with_its_module(kallsyms: Path) -> None:
    wanted = {
        0xFFFFFFFF81002010: "dma_buf_ioctl+0x10",
        0xFFFFFFFFC0100123: "ref_map+0x123 [dmabuf_ref]",
        0xFFFFFFFFC0000000: "vgem_open+0x0 [vgem]",
    }
    assert symbols.resolve(wanted, kallsyms) == wanted


def test_what_fits_nothing_stays_a_number(kallsyms: Path) -> None:
    far = 0xFFFFFFFFC0100000 + (1 << 21)
    assert symbols.resolve([16, far], kallsyms) == {16: "0x10", far: f"{far:#x}"}


def test_pieces_may_end_anywhere(kallsyms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = 0xFFFFFFFF81002010
    for piece in range(40, len(KALLSYMS) + 2):
        monkeypatch.setattr(symbols, "PIECE", piece)
        assert symbols.resolve([address], kallsyms) == {address: "dma_buf_ioctl+0x10"}


def test_hidden_addresses_leave_everything_bare(kallsyms: Path) -> None:
    kallsyms.write_text("".join(f"{0:016x}{line[16:]}\n" for line in KALLSYMS.splitlines()))
    assert symbols.resolve([0xFFFFFFFF81002010], kallsyms) == {
        0xFFFFFFFF81002010: "0xffffffff81002010"
    }


def test_nothing_asked_reads_nothing(tmp_path: Path) -> None:
    assert symbols.resolve([], tmp_path / "none") == {}


def test_a_stack_does_not_begin_with_the_programs_that_took_it() -> None:
    frames = ("bpf_prog_b8d5_emit+0x56b [bpf]", "bpf_trampoline_1+0x1 [bpf]", "ref_get+0xe [ref]")

    assert symbols.without_programs(frames) == frames[2:]
    inside = ("f+0x1", frames[0])
    assert symbols.without_programs(inside) == inside
    assert symbols.without_programs(()) == ()
