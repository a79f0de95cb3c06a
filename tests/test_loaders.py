# SPDX-License-Identifier: Apache-2.0
"""Which loader and which way of attaching is chosen; what bcc is given to compile."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmabuf_trace import schema
from dmabuf_trace.errors import InputError, UntraceableError
from dmabuf_trace.loader import bcc, btf, choose, modes, tracefs
from dmabuf_trace.loader.choose import LoadOptions, load
from dmabuf_trace.loader.interface import AUTO, FENTRY, KPROBE, MULTI, TRACEPOINT
from dmabuf_trace.loader.modes import Exactness, ways
from dmabuf_trace.probes import FOLLOWING, PROBES, Probe
from tests.test_weather import one_line, trace

CONFIG = np.zeros(1, schema.CONFIG_DTYPE)
NO_FPROBE = Exactness(entries=False, returns=False)
OLD_FPROBE = Exactness(entries=True, returns=False)
ON_FGRAPH = Exactness(entries=True, returns=True)

TIMED = Probe(("f",), (), "f_entry", "f_return", "")
ENTERED = Probe(("g",), (), "g_entry", "", "", point="g_point")
POINT = Probe(("p",), (), "p", "", "", tracepoint=True)


@pytest.mark.parametrize(
    ("fprobe", "timed", "entered"),
    [
        (NO_FPROBE, (KPROBE,), (KPROBE,)),
        (OLD_FPROBE, (KPROBE,), (MULTI, KPROBE)),
        (ON_FGRAPH, (MULTI, KPROBE), (MULTI, KPROBE)),
    ],
)
def test_auto_takes_fprobes_where_they_lose_nothing(
    tmp_path: Path, fprobe: Exactness, timed: tuple[str, ...], entered: tuple[str, ...]
) -> None:
    assert ways(TIMED, AUTO, fprobe, tmp_path) == timed
    assert ways(ENTERED, AUTO, fprobe, tmp_path) == entered


def test_auto_takes_a_tracepoint_that_carries_all(tmp_path: Path) -> None:
    (tmp_path / "events/dma_buf/g").mkdir(parents=True)

    assert ways(ENTERED, AUTO, ON_FGRAPH, tmp_path) == (TRACEPOINT, MULTI, KPROBE)
    assert ways(ENTERED, KPROBE, ON_FGRAPH, tmp_path) == (KPROBE,)


@pytest.mark.parametrize("mode", [MULTI, FENTRY])
def test_a_mode_that_was_asked_for_falls_back_to_kprobes(tmp_path: Path, mode: str) -> None:
    assert ways(TIMED, mode, NO_FPROBE, tmp_path) == (mode, KPROBE)
    assert ways(POINT, mode, NO_FPROBE, tmp_path) == (TRACEPOINT,)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), NO_FPROBE),
        (("register_fprobe_ips",), OLD_FPROBE),
        (("register_fprobe_ips", "fprobe_hlist_node"), OLD_FPROBE),
        (("register_fprobe_ips", "fprobe_hlist"), ON_FGRAPH),
    ],
)
def test_the_kernels_btf_tells_what_its_fprobes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], expected: Exactness
) -> None:
    file = tmp_path / "btf"
    padding = b"x" * (btf.READ_BYTES - 5)  # so that a name lies across two reads
    file.write_bytes(padding + b"\0" + b"".join(name.encode() + b"\0" for name in names))
    monkeypatch.setattr(btf, "BTF", file)

    assert Exactness.here() == expected


def test_without_btf_fprobes_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(btf, "BTF", tmp_path / "none")
    assert Exactness.here() == NO_FPROBE


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("none (voluntary) full", FENTRY, "nothing here (preemption: voluntary)"),
        ("none voluntary (full) lazy", FENTRY, "race on a processor (preemption: full)"),
        (None, FENTRY, "race on a processor (preemption: unknown)"),
        (None, KPROBE, "loses nothing"),
        (None, MULTI, "beyond two per processor"),
    ],
)
def test_what_a_mode_loses_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, mode: str, expected: str
) -> None:
    file = tmp_path / "preempt"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(modes, "PREEMPT", file)

    assert expected in modes.loses(mode, OLD_FPROBE)
    assert modes.loses(MULTI, ON_FGRAPH) == "loses nothing"


def test_bcc_is_given_one_text_with_every_program() -> None:
    text = bcc.source_text()

    assert not re.search(r'^#include "', text, re.MULTILINE)
    found = set(re.findall(r"^(?:PROBE|TRACEPOINT)\((\w+)\)$", text, re.MULTILINE))
    used = {name for p in (*PROBES, *FOLLOWING) for name in (p.entry, p.returned, p.point) if name}
    assert found == used


@pytest.fixture
def no_bcc_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of that name as they were, afterwards."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "bcc"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "bcc"]:
        del sys.modules[name]


def package(folder: Path, text: str) -> Path:
    """A Python package called bcc; its file."""
    file = folder / "bcc" / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


@pytest.mark.usefixtures("no_bcc_loaded")
def test_another_package_called_bcc_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path / "pypi", "LATTICE = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "pypi")
    monkeypatch.setattr(bcc, "DEBIAN", package(tmp_path / "debian", "from bcc import lib\nBPF = 1"))
    (tmp_path / "debian/bcc/lib.py").write_text("")

    assert bcc.import_bcc().BPF == 1


@pytest.mark.usefixtures("no_bcc_loaded")
@pytest.mark.parametrize("text", [None, "raise OSError('libbcc.so.0: cannot open')\n"])
def test_bcc_that_is_not_there_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    package(tmp_path / "pypi", "LATTICE = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "pypi")
    debian = package(tmp_path / "debian", text) if text else tmp_path / "none"
    monkeypatch.setattr(bcc, "DEBIAN", debian)

    with pytest.raises(UntraceableError, match=r"not installed|libbcc.so.0") as caught:
        bcc.import_bcc()
    assert "apt-get install python3-bpfcc" in caught.value.hint


@pytest.mark.parametrize("mode", [MULTI, FENTRY])
def test_bcc_attaches_by_kprobes_only(mode: str) -> None:
    with pytest.raises(InputError, match=f"the bcc loader can't attach by {mode}"):
        load(PROBES, CONFIG, LoadOptions(4096, "bcc", mode))


class Refusing:
    """A back end that can't be had."""

    def __init__(self, *_: object) -> None:
        raise UntraceableError(f"no {type(self).__name__}", f"install {type(self).__name__}")


class NoCore(Refusing):
    """In place of core."""


class NoBcc(Refusing):
    """In place of bcc."""


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({}, "core: no NoCore; bcc: no NoBcc", "install NoBcc"),
        ({"attach": KPROBE}, "core: no NoCore; bcc: no NoBcc", "install NoBcc"),
        ({"loader": "core"}, "no NoCore", "install NoCore"),
        ({"loader": "bcc"}, "no NoBcc", "install NoBcc"),
        ({"attach": FENTRY}, "no NoCore", "install NoCore"),
    ],
)
def test_one_line_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str, hint: str
) -> None:
    monkeypatch.setattr(choose, "CoreBackend", NoCore)
    monkeypatch.setattr(choose, "BccBackend", NoBcc)
    monkeypatch.setattr(tracefs, "root", Path)

    with pytest.raises(UntraceableError) as caught:
        load(PROBES, CONFIG, LoadOptions(4096, **options))
    assert (str(caught.value), caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--attach", "uprobe"), "no attach mode 'uprobe'"),
        (("--loader", "gcc"), "no loader 'gcc'"),
        (("--loader", "bcc", "--attach", "multi"), "the bcc loader can't attach by multi"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = trace("record", "-o", str(tmp_path / "a.dbt"), *options, "true")
    assert done.returncode == 2
    assert message in one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_compilers_complaint_is_one_line() -> None:
    output = "warning: x\n/virtual/main.c:7:3: error: no member named 'y'\n  y\n  ^\n1 error\n"
    assert bcc.complaint(output, "failed") == "no member named 'y'"
    assert bcc.complaint("", "failed") == "failed"
