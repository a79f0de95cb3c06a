# SPDX-License-Identifier: Apache-2.0
"""The gate on real kernels: what must be found is, by its right name; its clean twin passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from dmabuf_trace import checks
from dmabuf_trace.recording import Reader
from dmabuf_trace.stacks import function
from tests.analyses import test_contract
from tests.gate import judging
from tests.gate.judging import Judged, assert_clean, in_guest
from tests.gate.misuse import BROKEN, EXCEEDED, FRAMES, LEAKS, clean_of
from tests.kmod.client import EXPORTER, Importer
from tests.vm.kernels import WITH_MODULE

guest = pytest.mark.guest
pytestmark = pytest.mark.every_run_on("6.1", "7.2")

POLICY: Final = """
[contract]
unmap_within = "2s"
signal_within = "2s"

[contract.rules]
mapping_not_held = true
"""

LIMITS: Final = {
    "mappings.max_age": '[mappings]\nmax_age = "2s"',
    "latency.attach": '[[latency]]\ncall = "attach"\nmax = "2s"\nmin_calls = 1',
    "latency.map": '[[latency]]\ncall = "map"\nmax = "2s"\nmin_calls = 1',
    "churn.mappings": f"[churn]\nremaps = {FRAMES - 2}",
    "churn.buffers": f"[churn]\nsurplus = {FRAMES - 2}",
}
"""A policy for each case that has no limit of its own."""

STACKS: Final = {
    "fd": "ref_export",
    "mapping": "ref_export",
    "attachment": "ref_import_attach",
    "in-flight": "ref_export",
    "kernel": "ref_leak_ref",
}
"""The module's function in the stack of each leak: who exported, attached, took the reference."""

OF_UNMAP: Final = (
    *("unmap_once", "unmap_direction", "unmap_before_detach", "unmap_after_move"),
    "mapping_not_held",
)
"""Rules that nothing can be said of where unmap is not observed."""

LEFT_BEHIND: Final = {"unmap_before_detach", "detach_before_release"}
"""Rules that are broken by what another case finds left behind."""

BUILT_ONLY: Final = {
    "leaks.unknown": "a recorder looks at the holders last; one that can't leaves no certainty",
    "contract.map_attached": "the core would use an attachment that is freed",
    "contract.vmap_balanced": "BUG_ON in dma_buf_release() and in dma_buf_vunmap()",
    "latency.export": "nothing in dma_buf_export() waits for an exporter",
    "growth.per_second": "takes many seconds; tests/test_findings.py asks its analysis in guests",
}
"""Cases that fail in built traces alone, and why."""

CONTROLS: Final = {
    *(f"leaks.{shape}" for shape in LEAKS),
    *(f"contract.{rule}" for rule in BROKEN),
    *("leaks.left_behind", "growth.per_run"),
    *EXCEEDED,
}
"""Cases that fail here."""


def test_every_case_has_a_control() -> None:
    made = {name for each in checks.registry() for name in each.rules}

    assert made == CONTROLS | BUILT_ONLY.keys()
    assert not CONTROLS & BUILT_ONLY.keys()
    built = {f"contract.{name}" for name, *_ in test_contract.BROKEN}
    assert {name for name in BUILT_ONLY if name.startswith("contract.")} <= built


class Recordings:
    """What steered recorders have left of one guest, judged window by window."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._windows: dict[str, dict[str, tuple[int, int, int]]] = json.loads(
            (path / "windows.json").read_text()
        )

    def inode(self, name: str, what: str) -> int:
        """Of the buffer that it is about."""
        return self._windows[name][what][2]

    def judged(self, name: str, what: str, policy: str = POLICY) -> Judged:
        """A window; "": the whole of it."""
        rules = self._path / "policy.toml"
        rules.write_text(policy)
        options = ["--policy", str(rules)]
        path = self._path / f"{name}.dbt"
        if what:
            since, until, _ = self._windows[name][what]
            with Reader(path) as reader:
                start = reader.header["start"]["monotonic_ns"]
            window = (f"{(time - start) / 10**9:.9f}s" for time in (since, until))
            options += ["--window", ",".join(window)]
        return judging.judge(path, self._path, *options)


@pytest.fixture(scope="module", params=WITH_MODULE)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """All recordings of one guest."""
    return Recordings(in_guest(request.param, "windows", tmp_path_factory))


@guest
@pytest.mark.parametrize("shape", LEAKS)
def test_a_leak_of_each_shape(found: Recordings, shape: str) -> None:
    judged = found.judged("misuse", shape)

    assert (judged.status, judged.failed) == (1, [f"leaks.{shape}"])
    assert judged.of_outcome("inconclusive") == []
    (finding,) = judged.findings
    assert finding["inodes"] == [found.inode("misuse", shape)]
    assert (finding["subject"]["shape"], finding["subject"]["exporter"]) == (shape, EXPORTER)
    module = f"[{EXPORTER}]"
    assert STACKS[shape] in {function(frame) for frame in finding["stack"] if module in frame}
    device = Importer.SEG.device if shape == "attachment" else None
    assert finding["subject"].get("device") == device


@guest
@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule(found: Recordings, rule: str) -> None:
    judged = found.judged("misuse", rule)

    failed = {f"contract.{rule}", *(["leaks.left_behind"] if rule in LEFT_BEHIND else [])}
    assert (judged.status, set(judged.failed)) == (1, failed)
    assert judged.of_outcome("inconclusive") == []
    inode = found.inode("misuse", rule)
    assert [each["inodes"] for each in judged.findings] == [[inode] if inode else []] * len(failed)


@guest
@pytest.mark.parametrize("shape", LEAKS)
def test_the_clean_twin_of_a_leak(found: Recordings, shape: str) -> None:
    assert_clean(found.judged("misuse", clean_of(shape)))


@guest
@pytest.mark.parametrize("rule", BROKEN)
def test_the_clean_twin_of_a_broken_rule(found: Recordings, rule: str) -> None:
    judged = found.judged("misuse", clean_of(rule))

    assert_clean(judged)
    (case,) = (row for row in judged.document["cases"] if row["name"] == f"contract.{rule}")
    assert case["measured"] != "no case"


@guest
@pytest.mark.parametrize("case", EXCEEDED)
def test_a_limit_of_the_policy(found: Recordings, case: str) -> None:
    judged = found.judged("misuse", case, LIMITS[case])
    clean = found.judged("misuse", clean_of(case), LIMITS[case])

    assert (judged.status, judged.failed) == (1, [case])
    assert len(judged.findings) == 1
    assert_clean(clean)
    assert case in clean.of_outcome("passed")


@guest
@pytest.mark.parametrize("what", ["before", "after"])
def test_what_is_lost_before_and_after_a_window_is_not_its_loss(
    found: Recordings, what: str
) -> None:
    assert_clean(found.judged("lossy", what))


@guest
def test_losses_are_no_pass(found: Recordings) -> None:
    judged = found.judged("lossy", "lost")

    assert (judged.status, judged.failed) == (3, [])
    assert "leaks.fd" in judged.of_outcome("inconclusive")


@guest
@pytest.mark.parametrize("what", ["lost, and a leak", ""])
def test_losses_hide_no_leak_that_the_kernel_shows(found: Recordings, what: str) -> None:
    judged = found.judged("lossy", what)

    assert (judged.status, judged.failed) == (1, ["leaks.fd"])
    (finding,) = judged.findings
    assert finding["inodes"] == [found.inode("lossy", "lost, and a leak")]


@guest
def test_what_was_not_asked_for_is_no_pass(found: Recordings) -> None:
    clean, leak = (found.judged("partial", what) for what in ("clean", "leak"))

    assert (clean.status, clean.failed) == (3, [])
    doubted = set(clean.of_outcome("inconclusive"))
    assert {"contract.map_attached", "leaks.left_behind"} <= doubted
    assert not {f"leaks.{shape}" for shape in LEAKS} & doubted
    assert (leak.status, leak.failed) == (1, ["leaks.fd"])
    assert leak.findings[0]["inodes"] == [found.inode("partial", "leak")]


@guest
def test_a_refused_probe_is_no_pass(found: Recordings) -> None:
    clean, leak = (found.judged("refused", what) for what in ("clean", "leak"))

    assert (clean.status, clean.failed) == (3, [])
    assert set(clean.of_outcome("inconclusive")) == {
        "leaks.left_behind",
        *(f"contract.{rule}" for rule in OF_UNMAP),
    }
    assert (leak.status, leak.failed) == (1, ["leaks.fd"])
    assert leak.findings[0]["inodes"] == [found.inode("refused", "leak")]


@guest
def test_a_recorder_that_was_killed(found: Recordings) -> None:
    whole = found.judged("killed", "")

    assert (whole.status, whole.failed) == (3, [])
    assert_clean(found.judged("killed", "clean"))
    leak = found.judged("killed", "leak")
    assert (leak.status, leak.failed) == (1, ["leaks.fd"])
