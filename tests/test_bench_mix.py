# SPDX-License-Identifier: Apache-2.0
"""What the generator says is in its mix is in the tables of a recording that is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import dmabuf_trace
from dmabuf_trace import schema
from dmabuf_trace.trace import Trace
from tests.bench.generate import LOST_ENDS, Generator
from tests.bench.recorded import record

EVENTS = 200_000
TABLES = ("buffers", "attachments", "mappings", "pins", "vmaps", "cpu_accesses", "fds")


def opened(folder: Path, generator: Generator) -> Trace:
    record(folder / "made.dbt", generator)
    return dmabuf_trace.open(folder / "made.dbt")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return opened(tmp_path_factory.mktemp("mix"), Generator.sized(EVENTS))


def of(table: pd.DataFrame, device: str) -> pd.DataFrame:
    return table[table["device"] == device]


@pytest.mark.parametrize("events", [100_000, EVENTS])
def test_a_recording_has_as_many_events_as_were_asked_for(events: int) -> None:
    made = sum(map(len, Generator.sized(events).slices(10.0)))
    assert made == pytest.approx(events, rel=0.01)


def test_most_lives_are_seen_from_begin_to_end(trace: Trace) -> None:
    for name in TABLES:
        table: pd.DataFrame = getattr(trace, name)
        assert len(table) > 100 or name == "attachments"
        whole = table["begin"].notna() & table["end"].notna()
        assert whole.sum() >= 0.9 * (len(table) - 50), name


def test_buffers_from_before_the_trace_are_used_and_listed(trace: Trace) -> None:
    before = trace.buffers[trace.buffers["origin"] == "before"]
    assert len(before) == 8
    assert before["size_bytes"].tolist() == [6 << 20] * 8
    used = of(trace.mappings, "vdec0")
    assert set(used["buffer_id"]) == set(before["id"])
    assert used["begin"].isna().any()  # frames were under way when the trace began


def test_some_events_are_lost_and_counted(trace: Trace) -> None:
    assert trace.lost_events > 20
    losses = trace.losses[:, schema.CAUSE["ring_full"]]
    assert losses[[schema.KIND["map"], schema.KIND["fd_install"]]].all()
    unseen = trace.mappings["begin"].isna() & ~trace.mappings["inode"].isna()
    assert unseen.sum() >= losses[schema.KIND["map"]]
    assert (trace.buffers["origin"] == "lost").sum() == losses[schema.KIND["export"]]


def test_without_losses_all_is_paired(tmp_path: Path) -> None:
    whole = opened(tmp_path, Generator(20.0, lossy=False))
    assert whole.lost_events == 0
    assert set(whole.buffers["origin"]) == {"exported", "before"}
    assert not whole.buffers["end_lost"].any()
    assert not whole.mappings["open"].any()
    assert not whole.pins["begin"].isna().any()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_addresses_come_again_and_never_while_they_are_attached(seed: int) -> None:
    events = np.concatenate(list(Generator(40.0, seed=seed, lossy=False).slices(10.0)))
    attaches = (events["kind"] == schema.KIND["attach"]) & (events["ret"] == 0)
    events = events[attaches | (events["kind"] == schema.KIND["detach"])]
    events = events[np.argsort(events["object"], kind="stable")]
    attach = events["kind"] == schema.KIND["attach"]
    same = events["object"][1:] == events["object"][:-1]
    assert not (attach[1:] & attach[:-1] & same).any()
    again = attach[1:] & same
    assert again.sum() > 1_000


def test_an_address_that_comes_again_is_another_attachment(trace: Trace) -> None:
    tiles = trace.attachments[trace.attachments["driver"] == "gpu"]
    per_address = tiles.groupby("address")["id"].nunique()
    assert (per_address > 2).sum() > 100
    assert of(trace.attachments, "scaler0")["address"].nunique() == 42


def test_a_kept_mapping_is_handed_out_again(trace: Trace) -> None:
    shown = of(trace.mappings, "display0")
    game = shown[shown["sgt"].isin(shown.loc[shown["cached"].fillna(False), "sgt"])]
    assert game["sgt"].nunique() == 3
    assert game.groupby("sgt")["cached"].sum().min() > 100
    first = game.sort_values("begin").groupby("sgt").head(1)
    assert not first["cached"].any()
    assert first["map_ns"].min() > 10 * game.loc[game["cached"].fillna(False), "map_ns"].median()


def test_some_mappings_are_held_for_long(trace: Trace) -> None:
    held = trace.mappings[trace.mappings["age_ns"] > 1_000_000_000]
    assert 20 < len(held) < 0.02 * len(trace.mappings)


def test_a_dynamic_importer_pins_and_is_moved(trace: Trace) -> None:
    nic = of(trace.attachments, "nic0")
    assert set(nic["importer"]) == {"dynamic"}
    assert set(trace.pins["attachment_id"]) == set(nic["id"])
    assert len(trace.pins) > 1_000
    assert set(trace.moves["inode"]) == set(nic["inode"])
    assert 10 < len(trace.moves) < 0.1 * len(trace.pins)


def test_access_is_by_processes_and_by_drivers(trace: Trace) -> None:
    assert trace.cpu_accesses["by"].value_counts()["driver"] > 1_000
    assert trace.cpu_accesses["by"].value_counts()["process"] > 1_000
    assert len(trace.vmas) > 1_000


def test_waits_and_functions_are_parts_of_calls(trace: Trace) -> None:
    waits, operations = trace.waits, trace.operations
    assert set(waits["kind"]) == {"lock", "fence"}
    assert set(waits["call"].dropna()) == {"map", "pin", "cpu_begin"}
    assert waits["call"].notna().mean() > 0.95
    within = operations[operations["operation"] != "unmap"]
    assert set(within["operation"]) == {"map", "pin", "begin"}
    assert within["call"].notna().mean() > 0.95
    assert set(trace.probed["operation"]) == {"map", "unmap", "pin", "begin"}


def test_some_calls_fail(trace: Trace) -> None:
    found = set(zip(trace.errors["kind"], trace.errors["error"], strict=True))
    assert found == {
        ("attach", "EBUSY"),
        ("map", "ENOMEM"),
        ("export", "ENOMEM"),
        ("get", "EINVAL"),
        ("cpu_begin", "EINTR"),
    }


def test_threads_and_cgroups_have_names(trace: Trace) -> None:
    isp = of(trace.mappings, "isp0")
    worker = isp[isp["comm"] == "isp-worker"]
    assert (worker["tid"] != worker["pid"]).all()
    assert set(worker["cgroup"]) == {"/system.slice/camerad.service"}


def still_open(trace: Trace) -> NDArray[np.int64]:
    return np.array([int(getattr(trace, name)["open"].sum()) for name in TABLES])


def test_what_stays_open_does_not_grow_but_by_what_is_lost(trace: Trace, tmp_path: Path) -> None:
    twice = opened(tmp_path, Generator.sized(2 * EVENTS))
    grown = still_open(twice) - still_open(trace)
    assert still_open(trace).sum() < 200
    assert grown.sum() <= 4 * EVENTS * LOST_ENDS
