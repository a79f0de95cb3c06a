# SPDX-License-Identifier: Apache-2.0
"""Recordings judged: what is a finding, what is tolerated, what can't be told."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmabuf_trace import check
from dmabuf_trace.check import Baseline
from dmabuf_trace.findings import Case, Verdict
from dmabuf_trace.policy import parse
from tests.build import KIB, MS, Build, Process, S

Judge = Callable[..., Verdict]
TODAY = datetime.date(2026, 6, 1)
STACK = ("dma_buf_export+0x1/0x2", "heap_ioctl+0x3/0x4")


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Judge a built trace: ``judge(build, "[leaks]...", before=other)``."""

    def judged(
        build: Build, policy: str = "", *, before: Build | None = None, **options: Any
    ) -> Verdict:
        rules = parse("p.toml", policy.encode(), check.policy_section())
        for name in ("good.dbt", "x.dbt"):
            (tmp_path / name).unlink(missing_ok=True)
        known = Baseline(before.write(tmp_path / "good.dbt"), rules) if before else None
        path = build.write(tmp_path / "x.dbt", **options)
        return check.read(path, rules, baseline=known, today=TODAY)

    return judged


def case(verdict: Verdict, name: str) -> Case:
    (found,) = (each for each in verdict.cases if each.name == name)
    return found


def failed(verdict: Verdict) -> list[str]:
    return [each.name for each in verdict.of("failed")]


def left_by(shape: str) -> Build:
    """A trace in which one buffer is left, kept in this way; "": none."""
    k = Build(sees_queues=True)
    buffer = k.export(8 * KIB, fd=3, stack=STACK)
    if shape == "mapping":
        k.mmap(buffer)
    if shape == "attachment":
        k.attach(buffer, "gpu", driver="gpu")
    if shape == "in-flight":
        k.send(buffer, to=Process(200, "cam"))
    if shape != "fd":
        k.close_fd(buffer, 3)
    if not shape:
        k.release(buffer)
    k.wait(2 * S)
    return k


@pytest.mark.parametrize("shape", ["fd", "mapping", "attachment", "in-flight", "kernel"])
def test_a_leak_of_each_shape(judge: Judge, shape: str) -> None:
    verdict = judge(left_by(shape))

    assert (verdict.outcome, verdict.status, failed(verdict)) == ("findings", 1, [f"leaks.{shape}"])
    (finding,) = verdict.findings
    assert finding.inodes == (41,)
    assert (finding.count, finding.amount, finding.certain) == (1, 8 * KIB, True)
    assert finding.subject["exporter"] == "system"
    assert finding.subject["shape"] == shape
    assert finding.stack == STACK
    assert finding.next.endswith("x.dbt 41")
    assert finding.cause


def test_the_clean_twin(judge: Judge) -> None:
    verdict = judge(left_by(""))

    assert (verdict.outcome, verdict.status) == ("clean", 0)
    assert not list(verdict.findings)
    assert {each.name for each in verdict.of("off")} == {
        *("contract.mapping_not_held", "mappings.max_age", "latency.export", "latency.attach"),
        *("latency.map", "churn.mappings", "churn.buffers", "growth.per_run", "growth.per_second"),
    }


def test_buffers_of_one_maker_are_one_finding(judge: Judge) -> None:
    k = Build()
    for fd in range(3, 13):
        k.export(4 * KIB, fd=fd, stack=STACK)
    k.export(4 * KIB, exporter="vivid", fd=13)

    found = list(judge(k).findings)

    assert [(each.count, each.subject["exporter"]) for each in found] == [
        (10, "system"),
        (1, "vivid"),
    ]
    assert "held by app-100 fd 3" in found[0].evidence


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [
        ("[leaks]\nbuffers = 1", "clean"),
        ("[leaks]\nbuffers = 0", "findings"),
        ("[leaks.fd]\nbuffers = 1", "clean"),
        ("[leaks.kernel]\nbuffers = 1", "findings"),
        ("[leaks]\nbytes = '8K'", "clean"),
        ("[leaks]\nbytes = '7K'", "findings"),
        ("[leaks]\nbuffers = 5\n[leaks.fd]\nbuffers = 0", "findings"),
        ("[leaks]\nfds = 1", "clean"),
        ("[leaks]\nfds = 0", "findings"),
        ("[leaks]\nmin_age = '3s'", "clean"),
        ("[leaks]\nmin_age = '1s'", "findings"),
    ],
)
def test_limits_of_leaks(judge: Judge, policy: str, outcome: str) -> None:
    assert judge(left_by("fd"), policy).outcome == outcome


def test_what_a_limit_tolerates_is_told(judge: Judge) -> None:
    verdict = judge(left_by("fd"), "[leaks]\nbuffers = 3\nbytes = '1M'")

    assert case(verdict, "leaks.fd").measured == "1 buffers of 3, 8,192 bytes of 1,048,576"


def test_a_limit_of_attachments(judge: Judge) -> None:
    limit = "[leaks.attachment]\nattachments = "

    assert judge(left_by("attachment"), f"{limit}1").outcome == "clean"
    assert judge(left_by("attachment"), f"{limit}0").outcome == "findings"


ALLOWED = [
    "exporter = 'sys*'",
    "rule = 'leaks.*'",
    "shape = 'fd'",
    "comm = 'app'",
    "stack = 'heap_*'",
    "exporter = 'system'\nexpires = 2026-06-01",
]
COUNTS = [
    "exporter = 'vivid'",
    "name = '*'",
    "rule = 'contract.*'",
    "stack = 'vivid_*'",
    "exporter = 'system'\ncomm = 'cam'",
    "exporter = 'system'\nexpires = 2026-05-31",
]


@pytest.mark.parametrize("entry", ALLOWED)
def test_an_allowed_leak_is_no_finding_and_its_reason_is_told(judge: Judge, entry: str) -> None:
    verdict = judge(left_by("fd"), f"[[allow]]\n{entry}\nreason = 'see bug 7'\n")

    assert verdict.status == 0
    (excused,) = case(verdict, "leaks.fd").excused
    assert excused.reason == "see bug 7"
    assert verdict.notes == ()


@pytest.mark.parametrize("entry", COUNTS)
def test_an_entry_about_something_else_allows_nothing_and_is_told(judge: Judge, entry: str) -> None:
    verdict = judge(left_by("fd"), f"[[allow]]\n{entry}\nreason = 'see bug 7'\n")

    assert verdict.status == 1
    what = "expired on 2026-05-31, not used" if "05-31" in entry else "allows what was not found"
    assert verdict.notes == (f"p.toml:1: {what}",)


def test_lost_releases_make_a_leak_doubtful_unless_the_kernel_showed_it(judge: Judge) -> None:
    seen, unseen = left_by("fd"), left_by("kernel")
    for each in (seen, unseen):
        each.lose("release", "ring_full", 1)

    assert judge(seen).status == 1
    verdict = judge(unseen)
    assert (verdict.outcome, verdict.status) == ("inconclusive", 3)
    assert not next(verdict.findings).certain
    assert "release 1" in case(verdict, "leaks.kernel").reason


def test_the_kernels_whole_list_shows_what_nobody_holds(judge: Judge) -> None:
    k = Build(lists_all=True)
    k.snapshot("start")
    k.export(fd=3)
    k.close(3)
    k.lose("release", "ring_full", 1)

    assert (judge(k).status, failed(judge(k))) == (1, ["leaks.kernel"])


@pytest.mark.parametrize("kind", ["export", "release"])
def test_losses_hide_leaks(judge: Judge, kind: str) -> None:
    k = left_by("")
    k.lose(kind, "ring_full", 1)

    assert judge(k).status == 3


def test_what_was_not_observed_can_t_pass(judge: Judge) -> None:
    k = left_by("")
    k.unobserved = ("map", "unmap")
    verdict = judge(k)

    assert verdict.status == 3
    assert case(verdict, "leaks.fd").outcome == "passed"
    assert case(verdict, "contract.unmap_once").outcome == "inconclusive"
    assert "not observed" in case(verdict, "contract.unmap_once").reason


def test_a_recording_that_was_cut(judge: Judge) -> None:
    assert judge(left_by(""), cut=True).status == 3
    assert judge(left_by("fd"), cut=True).status == 3


def test_loss_that_has_nothing_to_do_with_a_rule(judge: Judge) -> None:
    k = left_by("")
    k.lose("poll", "ring_full", 5)

    assert judge(k).status == 0


def test_a_rule_of_the_contract(judge: Judge) -> None:
    def misused() -> Build:
        k = left_by("")
        buffer = k.export()
        attachment = k.attach(buffer, "gpu")
        k.unmap(k.map(attachment, "to_device"), "from_device")
        k.detach(attachment)
        k.release(buffer)
        return k

    verdict = judge(misused())

    assert (verdict.status, failed(verdict)) == (1, ["contract.unmap_direction"])
    (finding,) = verdict.findings
    assert (finding.subject["device"], finding.inodes) == ("gpu", (42,))
    off = judge(misused(), "[contract.rules]\nunmap_direction = false")
    assert (off.status, case(off, "contract.unmap_direction").outcome) == (0, "off")
    allowed = judge(misused(), "[[allow]]\ndevice = 'gpu'\nreason = 'erratum'")
    assert allowed.status == 0


def test_what_was_left_behind(judge: Judge) -> None:
    k = Build()
    buffer = k.export()
    attachment = k.attach(buffer, "gpu", driver="gpu")
    k.map(attachment)
    k.detach(attachment)
    k.release(buffer)

    assert failed(judge(k)) == ["leaks.left_behind", "contract.unmap_before_detach"]


def mapped_for(ns: int, driver: str = "npu") -> Build:
    k = Build()
    buffer = k.export()
    attachment = k.attach(buffer, "npu-0", driver=driver)
    mapping = k.map(attachment)
    k.wait(ns)
    k.unmap(mapping)
    k.detach(attachment)
    k.release(buffer)
    return k


CLASS = "\n[[mappings.device]]\ndriver = 'npu'\nmax_age = '10s'\n"
BY_DESIGN = "[[mappings.device]]\ndriver = 'vivid'\nmax_age = '1s'\nby_design = true\n"


@pytest.mark.parametrize(
    ("policy", "driver", "outcome"),
    [
        ("", "npu", "clean"),
        ("[mappings]\nmax_age = '4s'", "npu", "findings"),
        ("[mappings]\nmax_age = '6s'", "npu", "clean"),
        (f"[mappings]\nmax_age = '4s'{CLASS}", "npu", "clean"),
        (f"[mappings]\nmax_age = '4s'{CLASS}", "rdma", "findings"),
        ("[mappings]\nmax_age = '4s'", "vivid", "clean"),
        (BY_DESIGN, "vivid", "findings"),
    ],
)
def test_ages_of_mappings(judge: Judge, policy: str, driver: str, outcome: str) -> None:
    assert judge(mapped_for(5 * S, driver), policy).outcome == outcome


def test_latency_of_a_device(judge: Judge) -> None:
    def slow(calls: int) -> Build:
        k = Build()
        buffer = k.export()
        attachment = k.attach(buffer, "gpu", dur=1)
        for index in range(calls):
            k.unmap(k.map(attachment, dur=3 * MS if index == calls - 1 else MS))
        k.detach(attachment)
        k.release(buffer)
        return k

    def limit(text: str) -> str:
        return f"[[latency]]\ncall = 'map'\ndevice = 'gp*'\n{text}\n"

    assert failed(judge(slow(30), limit("max = '2ms'"))) == ["latency.map"]
    assert judge(slow(30), limit("p50 = '2ms'")).status == 0
    assert judge(slow(10), limit("max = '2ms'")).status == 0, "too few calls"
    assert judge(slow(10), limit("max = '2ms'\nmin_calls = 10")).status == 1
    assert judge(slow(30), "[[latency]]\ncall = 'map'\ndevice = 'npu'\nmax = '2ms'").status == 0


def test_churn(judge: Judge) -> None:
    k = Build()
    for _ in range(10):
        k.release(k.export())
        k.wait(MS)

    assert judge(k).status == 0
    assert failed(judge(k, "[churn]\nsurplus = 8")) == ["churn.buffers"]
    assert judge(k, "[churn]\nsurplus = 9").status == 0


def runs(left: Callable[[int], int], count: int = 10, status: int = 0) -> Build:
    """A command that was run several times, and leaves so many buffers in each run."""
    k = Build()
    for run in range(count):
        for _ in range(left(run)):
            k.close(k.export(4 * KIB, fd=3, stack=STACK).inode)
        k.release(k.export(fd=3))
        k.close(3)
        k.wait(S)
        k.mark("run", status if run == 1 else 0)
    return k


def test_a_buffer_more_with_every_run(judge: Judge) -> None:
    verdict = judge(runs(lambda _: 1))

    assert (verdict.status, failed(verdict)) == (1, ["growth.per_run"])
    (finding,) = verdict.findings
    assert finding.summary == "1 buffers of system a run, 4 KiB, exported by app"
    assert finding.subject["shape"] == "kernel"


@pytest.mark.parametrize("warm_up", [1, 2, 3])
def test_a_cache_that_fills_and_stands(judge: Judge, warm_up: int) -> None:
    verdict = judge(runs(lambda run: 3 if run < warm_up else 0))

    assert verdict.status == 0
    assert case(verdict, "growth.per_run").measured.startswith("10 runs, ")


def test_growth_within_a_limit(judge: Judge) -> None:
    assert judge(runs(lambda _: 2), "[growth]\nbuffers_per_run = 2").status == 0
    assert judge(runs(lambda _: 3), "[growth]\nbuffers_per_run = 2").status == 1


def test_too_few_runs_are_no_verdict(judge: Judge) -> None:
    verdict = judge(runs(lambda _: 1, count=3))

    assert verdict.status == 3
    assert case(verdict, "growth.per_run").reason == "3 runs are too few to judge"


def test_a_command_that_failed_by_itself_is_told_apart(judge: Judge) -> None:
    clean = judge(runs(lambda _: 0, status=3))
    assert clean.command
    assert (clean.command.status, clean.command.cycles, clean.command.failed) == (3, 10, 1)
    assert (clean.outcome, clean.status) == ("clean", 5)
    assert judge(runs(lambda _: 1, status=3)).status == 1


def test_only_what_is_worse_than_in_the_baseline_counts(judge: Judge) -> None:
    def leaving(count: int, exporter: str = "system") -> Build:
        k = Build()
        for fd in range(3, 3 + count):
            k.export(exporter=exporter, fd=fd, stack=STACK)
        return k

    same = judge(leaving(2), before=leaving(2))
    assert same.status == 0
    assert case(same, "leaks.fd").excused[0].reason.startswith("no worse than in ")
    assert judge(leaving(1), before=leaving(2)).status == 0
    assert judge(leaving(3), before=leaving(2)).status == 1
    assert judge(leaving(2, "vivid"), before=leaving(2)).status == 1


def everything_wrong() -> Build:
    """Something for each section of a policy."""
    k = runs(lambda _: 2)
    buffer = k.export(fd=3)
    attachment = k.attach(buffer, 'gpu "x" *', driver="rdma")
    for _ in range(30):
        k.unmap(k.map(attachment, "to_device", dur=MS), "from_device")
    mapping = k.map(attachment)
    k.wait(5 * S)
    k.unmap(mapping)
    return k


@pytest.mark.parametrize("build", [everything_wrong, lambda: left_by("fd"), lambda: left_by("")])
def test_a_proposed_policy_is_one_that_the_run_passes(
    tmp_path: Path, build: Callable[[], Build]
) -> None:
    path = build().write(tmp_path / "x.dbt")
    text = check.propose(path)

    verdict = check.read(path, parse("p.toml", text.encode(), check.policy_section()))
    assert verdict.outcome == "clean", text


def test_what_a_proposed_policy_says(tmp_path: Path) -> None:
    text = check.propose(everything_wrong().write(tmp_path / "x.dbt"))

    assert "[contract.rules]\nunmap_direction = false  # 30 violations" in text
    assert '[[mappings.device]]\ndevice = "gpu \\"x\\" [*]"\nmax_age = "10s"' in text
    assert "[growth]\nbuffers_per_run = 2.00" in text
    assert '[[latency]]\ncall = "map"' in text
