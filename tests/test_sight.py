# SPDX-License-Identifier: Apache-2.0
"""Which findings are left where something is missing, and what doctor says of them."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from dmabuf_trace import schema, sight
from dmabuf_trace.analysis import Shown, registry
from dmabuf_trace.blocks import SnapshotBlock
from dmabuf_trace.cli.doctor import gaps, table
from dmabuf_trace.features import Feature
from dmabuf_trace.probes import PROBES
from dmabuf_trace.rules import RULES
from dmabuf_trace.sight import Gap, Sight, sights

LOOKS = {each.name for each in fields(SnapshotBlock)}
RELEASE = "6.12.0"


def seen(**missing: Gap | str) -> dict[str, Sight]:
    """All findings by name, where these are missing and why."""
    found = {name: Gap(gap) if isinstance(gap, str) else gap for name, gap in missing.items()}
    return {each.finding: each for each in sights(found, RELEASE)}


def changed(**missing: Gap | str) -> dict[str, tuple[str, str]]:
    """Those that are not all there any more."""
    return {
        name: (each.here, each.why)
        for name, each in seen(**missing).items()
        if each.here != "yes" and not each.never
    }


def test_every_analysis_and_every_rule_is_there() -> None:
    found = seen()
    lists = {name for name, each in registry().items() if each.is_list}
    assert {each.about for each in found.values()} == set(registry()) - lists | {"filters"}
    rules = {each.name: each for each in found.values() if each.about == "contract"}
    assert {name: each.never for name, each in rules.items()} == {
        rule.name: not rule.judge for rule in RULES
    }
    assert {each.here for each in found.values() if not each.never} == {"yes"}
    assert {each.here for each in found.values() if each.never} == {"no"}


@pytest.mark.parametrize("name", registry())
def test_what_findings_rest_on_exists_and_is_what_the_analysis_relies_on(name: str) -> None:
    analysis = registry()[name]
    rests_on = {need for each in analysis.shows for need in (*each.needs, *each.hides)}
    kinds = rests_on - LOOKS
    assert kinds <= set(schema.KIND)
    if analysis.relies_on:  # the contract tells what was lost by itself
        assert kinds <= set(analysis.relies_on) | {kind for kind in kinds if _is_part(kind)}


def _is_part(kind: str) -> bool:
    """Whether it is a part of a call: without it there is a rest, which is no doubt."""
    return kind in ("lock_wait", "fence_wait", "operation")


def test_without_the_list_of_all_buffers() -> None:
    unconfirmed = "found, but the kernel's own list does not confirm it"
    filtered = "with --exporter, --min-size, --max-size only what some process held at the start"
    assert changed(complete="no iterator") == {
        "leaks: kernel": ("partly", f"{unconfirmed} (no iterator)"),
        "leaks: made before the trace": ("partly", "only what some process holds (no iterator)"),
        "filters: made before the trace": ("partly", f"{filtered} is watched (no iterator)"),
    }


def test_without_sockets() -> None:
    assert changed(queues="no BTF") == {
        "leaks: in-flight": ("partly", "it is called kernel (no BTF)"),
        "leaks: kernel": ("partly", "it may be an fd under way in a socket (no BTF)"),
    }


def test_without_attachments() -> None:
    found = changed(attach="refused", detach="refused")
    both = "not seen: attach, detach (refused)"
    assert found["leaks: attachment"] == ("no", both)
    assert found["leaks: attachment left behind"] == ("no", both)
    assert found["leaks: kernel"] == ("partly", "it may be an attached device (refused)")
    assert found["contract: map_attached"] == ("no", "not seen: attach (refused)")
    assert found["contract: unmap_once"] == ("partly", "that it was broken may go unseen (refused)")
    assert found["devices: time of attach"] == ("no", "not seen: attach (refused)")
    assert found["footprint"] == ("partly", both)
    assert not {"leaks: fd", "leaks: mapping", "leaks: in-flight", "growth"} & set(found)


def test_what_rests_on_one_thing_alone_is_gone_without_it() -> None:
    found = changed(fence_wait="refused")
    assert found == {
        "contract: fence_signalled": ("no", "not seen: fence_wait (refused)"),
        "devices: fence wait of a call": ("no", "not seen: fence_wait (refused)"),
        "fences: waits": ("no", "not seen: fence_wait (refused)"),
    }


def test_what_one_of_two_probes_gives() -> None:
    found = changed(fence_wait=Gap("no dma_fence_wait_start", whole=False))
    why = "not all seen: fence_wait (no dma_fence_wait_start)"
    assert found["fences: waits"] == ("partly", why)


def test_where_nothing_can_be_recorded() -> None:
    found = list(sights({}, RELEASE, "nothing can be recorded: no root"))
    assert {each.here for each in found} == {"no"}
    told = {each.why for each in found if not each.never}
    assert told == {"nothing can be recorded: no root"}


@pytest.mark.parametrize(("release", "here"), [("6.9", "no"), ("7.0.1", "yes"), ("?", "yes")])
def test_what_newer_kernels_alone_have(
    monkeypatch: pytest.MonkeyPatch, release: str, here: str
) -> None:
    shown = Shown("new", ("map",), since=(7, 0))
    analysis = replace(registry()["growth"], shows=(shown,))
    monkeypatch.setattr(sight, "registry", lambda: {"growth": analysis})
    assert [each.here for each in sights({}, release)] == [here, "yes"]


def test_gaps_are_what_no_feature_gives() -> None:
    def probe(name: str, found: bool, *gives: str) -> Feature:
        detail = "attached" if found else "gone"
        return Feature(f"probe {name}", found, detail, "", False, gives)

    features = [
        Feature("root", True, "uid 0", "", True),
        probe("dma_buf_pin", True, "pin"),
        probe("fd_install", True, "fd_install"),
        probe("do_dup2", False, "fd_install"),
        probe("dma_buf_vmap", False, "vmap"),
        Feature("BPF iterator of buffers", False, "none", "", False, ("complete",)),
    ]
    assert gaps(features) == {
        "fd_install": Gap("gone", whole=False),
        "vmap": Gap("gone"),
        "complete": Gap("none"),
    }


def test_every_kind_of_event_comes_from_a_probe() -> None:
    assert {kind for probe in PROBES for kind in probe.kinds} == set(schema.KIND)


def test_the_table_fits_eighty_columns() -> None:
    missing = {name: Gap("a reason that takes " + "long " * 30) for name in ("complete", "unmap")}
    lines = list(table(list(sights(missing, RELEASE))))
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["finding", "here", "why"]
    assert sum(line.startswith("  contract: ") for line in lines) == 1 + sum(
        bool(rule.judge) for rule in RULES
    )
    assert all("\x1b" not in line for line in lines)
