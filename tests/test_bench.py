# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks stand on: a generator whose events mean something, and sizes that add up."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dmabuf_trace import schema
from tests.bench import formats
from tests.bench.feed import compiled
from tests.bench.generate import PIPELINES, Generator

ELF: bytes = b"\x7fELF"


def joined(generator: Generator, length: float = 1.0) -> NDArray[np.void]:
    return np.concatenate(list(generator.slices(length)))


def made(seconds: float, *, seed: int = 1, scale: int = 1) -> NDArray[np.void]:
    return joined(Generator(seconds, seed=seed, scale=scale))


def of(events: NDArray[np.void], kind: str) -> NDArray[np.void]:
    """Those of a kind that succeeded."""
    mine = (events["kind"] == schema.KIND[kind]) & (events["ret"] >= 0)
    chosen: NDArray[np.void] = events[mine]
    return chosen


def test_the_same_seed_makes_the_same_events() -> None:
    assert made(3).tobytes() == made(3).tobytes()
    assert made(3).tobytes() != made(3, seed=2).tobytes()


def test_events_are_in_order_of_time_across_slices() -> None:
    assert (np.diff(made(4)["ts"].astype(np.int64)) >= 0).all()


def test_slices_of_any_length_hold_as_many_events() -> None:
    assert len(joined(Generator(3.0), 0.25)) == len(made(3.0))


def test_scale_runs_pipelines_side_by_side() -> None:
    once, thrice = made(3), made(3, scale=3)
    assert len(thrice) == pytest.approx(3 * len(once), rel=0.01)
    assert len(np.unique(of(thrice, "export")["buffer"])) == 3 * len(of(once, "export"))


def test_what_begins_also_ends() -> None:
    pipelines = [pipe for pipe in PIPELINES if not pipe.before]
    events = joined(Generator(5, pipelines=pipelines, lossy=False))
    assert len(of(events, "cpu_begin")) == len(of(events, "cpu_end")) > 0
    keys = [
        sorted(
            zip(
                of(events, kind)["object"].tolist(), of(events, kind)["value"].tolist(), strict=True
            )
        )
        for kind in ("map", "unmap")
    ]
    assert keys[0] == keys[1]
    exported = set(of(events, "export")["buffer"].tolist())
    assert exported == set(events["buffer"].tolist()) - {0}
    fresh = [pipe for pipe in pipelines if pipe.fresh]
    assert len(of(events, "release")) == sum(int(5 * pipe.hz) for pipe in fresh)


def test_every_name_in_the_events_is_told() -> None:
    generator = Generator(3)
    events = joined(generator)
    named = generator.names()
    threads = named["id"][named["type"] == schema.NAME_TYPES["comm"]]
    texts = named["id"][named["type"] != schema.NAME_TYPES["comm"]]
    assert set(events["tid"].tolist()) == set(threads.tolist())
    seen = events["aux"][events["kind"] != schema.KIND["fence_wait"]]
    before = {schema.string_id("buffer", pipe.name) for pipe in PIPELINES if pipe.before}
    assert set(seen.tolist()) - {0} | before == set(texts.tolist())


def test_the_source_of_events_compiles_with_the_headers_of_the_programs() -> None:
    assert compiled().startswith(ELF)


def one(kind: str) -> NDArray[np.void]:
    events = np.zeros(1, schema.EVENT_DTYPE)
    events["kind"], events["ts"], events["dur"] = schema.KIND[kind], 5_000, 1_000
    return events


def test_ftrace_takes_a_record_per_entry_and_per_return() -> None:
    head, common, place = 4, 8, 8
    vunmap = head + common + place + 2 * 8  # buffer, object
    assert len(formats.ftrace(one("vunmap"))) == formats.PAGE_HEAD + vunmap
    begin = head + common + place + 2 * 8  # buffer, detail
    returned = head + common + 2 * place + 8
    assert len(formats.ftrace(one("cpu_begin"))) == formats.PAGE_HEAD + begin + returned


def test_perf_takes_a_sample_per_entry_and_per_return() -> None:
    content = formats.perf(one("cpu_begin"))
    sizes = []
    while content:
        size = int.from_bytes(content[6:8], "little")
        sizes.append(size)
        content = content[-(-size // 8) * 8 :]
    assert sizes == [formats.PERF_SAMPLE + 32, formats.PERF_SAMPLE + 32]


@pytest.mark.parametrize(("kind", "packets"), [("vunmap", 1), ("cpu_begin", 2)])
def test_perfetto_takes_a_packet_per_begin_and_end(kind: str, packets: int) -> None:
    content = formats.perfetto(one(kind))
    count = 0
    while content:
        assert content[:1] == b"\x0a"  # field 1 of Trace, of known length
        content = content[2 + content[1] :]
        count += 1
    assert count == packets
