# SPDX-License-Identifier: Apache-2.0
"""Checks: ten thousand mixed operations by racing processes leave nothing, and are all counted."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from tests.kmod import client
from tests.kmod.client import (
    DYNAMIC_IMPORTER,
    LAZY,
    PAGE_SIZE,
    Buffer,
    Direction,
    ExportFlag,
    Importer,
    Ref,
    Usage,
    Vma,
)
from tests.kmod.dynamic import maps_at_attach
from tests.kmod.harness import counted, idle, seeded, wait_until

SEED = 20120309
PROCESSES = 8
OPERATIONS = 10_000  # of all processes together
MOST_BUFFERS = 8


@dataclass(slots=True)
class Player:
    """One process: does random operations and keeps its own account of what succeeded."""

    rng: random.Random
    ref: Ref
    done: Counter[str] = field(default_factory=Counter)
    buffers: list[Buffer] = field(default_factory=list)
    maps: dict[int, int] = field(default_factory=dict)  # handle -> how many
    pins: dict[int, int] = field(default_factory=dict)  # likewise, of dynamic importers
    fences: list[int] = field(default_factory=list)
    vmas: list[Vma] = field(default_factory=list)

    def step(self) -> None:
        if not self.buffers:
            self.export()
        handles = [self.map, self.map, self.unmap, self.detach, self.leak] if self.maps else []
        handles += [self.pin, self.pin, self.unpin] if self.pins else []
        choices = [
            self.export,
            self.attach,
            self.attach,
            self.mmap,
            self.sync,
            self.move,
            self.fence,
            self.drop,
            *handles,
        ]
        self.rng.choice(choices)()

    def export(self) -> None:
        if len(self.buffers) < MOST_BUFFERS:
            size = self.rng.randrange(1, 32 * PAGE_SIZE)
            self.buffers.append(self.ref.export(size, self.rng.randrange(ExportFlag.CARELESS)))
            self.done["export_ok"] += 1

    def attach(self) -> None:
        try:
            flags = self.rng.choice((0, DYNAMIC_IMPORTER, DYNAMIC_IMPORTER | LAZY))
            handle = self.ref.attach(
                self.rng.choice(self.buffers), self.rng.choice(list(Importer)), flags=flags
            )
        except OSError:
            self.done["attach_failed"] += 1
        else:
            self.maps[handle] = 0
            if flags:
                self.pins[handle] = 0
            self.done["attach_ok"] += 1

    def map(self) -> None:
        handle = self.rng.choice(list(self.maps))
        self.ref.map(handle, self.rng.choice(list(Direction)))
        self.maps[handle] += 1
        self.done["map_ok"] += 1

    def unmap(self) -> None:
        handle = self.rng.choice(list(self.maps))
        with suppress(OSError):  # nothing mapped
            self.ref.unmap(handle)
            self.maps[handle] -= 1

    def pin(self) -> None:
        handle = self.rng.choice(list(self.pins))
        self.ref.pin(handle)
        self.pins[handle] += 1
        self.done["pin_ok"] += 1

    def unpin(self) -> None:
        handle = self.rng.choice(list(self.pins))
        with suppress(OSError):  # not pinned
            self.ref.unpin(handle)
            self.pins[handle] -= 1

    def detach(self) -> None:
        handle = self.rng.choice(list(self.maps))
        self.ref.detach(handle, force=True)
        self.forget(handle)

    def forget(self, handle: int) -> None:
        del self.maps[handle]
        self.pins.pop(handle, None)

    def leak(self) -> None:
        if self.rng.random() < 0.1:
            handle = self.rng.choice(list(self.maps))
            self.ref.leak(handle)
            self.forget(handle)

    def mmap(self) -> None:
        self.vmas.append(self.rng.choice(self.buffers).mmap(client.PROT_READ))
        self.done["op_mmap_ok"] += 1
        if self.rng.random() < 0.8:
            self.vmas.pop(self.rng.randrange(len(self.vmas))).close()

    def sync(self) -> None:
        buffer = self.rng.choice(self.buffers)
        client.sync_start(buffer.fd)
        client.sync_end(buffer.fd)
        self.done["op_begin_ok"] += 1

    def move(self) -> None:
        try:
            self.ref.move(self.rng.choice(self.buffers))
        except OSError as error:  # pinned, without pages yet, or not made for it
            assert error.errno in {errno.EBUSY, errno.ENODATA, errno.EINVAL}  # noqa: PT017
        else:
            self.done["move_notify"] += 1

    def fence(self) -> None:
        usage, delay_us = self.rng.choice(list(Usage)), self.rng.randrange(1, 5000)
        self.fences.append(self.ref.fence(self.rng.choice(self.buffers), usage, delay_us))
        self.done["fence_created"] += 1
        if self.rng.random() < 0.3:
            self.ref.signal(self.fences.pop(self.rng.randrange(len(self.fences))))

    def drop(self) -> None:
        self.buffers.pop(self.rng.randrange(len(self.buffers))).close()


def _play(number: int, account: int) -> None:
    """A child: play, write the account, and exit with everything still open."""
    player = Player(seeded(SEED + number), Ref())
    for _ in range(OPERATIONS // PROCESSES):
        player.step()
    lines = "".join(f"{name} {count}\n" for name, count in player.done.items())
    os.write(account, lines.encode())
    os._exit(0)


def check_mixed_operations(ref: Ref) -> None:
    """10,000 random operations of 8 processes that exit without cleaning up"""
    reader, writer = os.pipe()
    before = ref.counters()
    children = []
    for number in range(PROCESSES):
        child = os.fork()
        if not child:
            _play(number, writer)
        children.append(child)
    os.close(writer)
    expected: Counter[str] = Counter()
    with os.fdopen(reader) as accounts:
        for line in accounts:
            name, count = line.split()
            expected[name] += int(count)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)

    leaked = ref.counters().leaked_attachments
    assert leaked > 0
    assert ref.undo_leaks() == leaked
    seen = ref.counters() - before
    assert {name: seen[name] for name in expected} == expected
    assert seen["op_release"] == seen["export_ok"]
    assert seen["detach"] == seen["attach_ok"] == seen["op_attach_ok"] == seen["op_detach"]
    assert seen["unmap"] == seen["map_ok"]
    assert seen["op_unmap"] == seen["op_map_ok"]
    if not maps_at_attach():
        assert seen["op_map_ok"] == seen["map_ok"]
    assert seen["fence_signalled"] == seen["fence_created"]
    assert seen["unpin"] == seen["pin_ok"]
    # Those for buffers of exporters that have the operation, and the core's own.
    assert seen["op_unpin"] == seen["op_pin_ok"] > 0


def check_full_cycles(ref: Ref) -> None:
    """10,000 export, attach, map, unmap, detach, close cycles in a row"""
    cycles = 10_000
    with counted(
        ref,
        **dict.fromkeys(("export_ok", "fd_ok", "get_ok", "put", "op_release"), cycles),
        **dict.fromkeys(("attach_ok", "map_ok", "unmap", "detach"), cycles),
        **dict.fromkeys(("op_attach_ok", "op_map_ok", "op_unmap", "op_detach"), cycles),
    ):
        for _ in range(cycles):
            with ref.export(PAGE_SIZE) as buffer:
                handle = ref.attach(buffer)
                ref.map(handle)
                ref.unmap(handle)
                ref.detach(handle)
    wait_until(lambda: not idle(ref), "nothing is left")
