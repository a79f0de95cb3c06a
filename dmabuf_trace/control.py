# SPDX-License-Identifier: Apache-2.0
"""Leaks made on purpose, and their clean twins, by whatever exporter this kernel has.

``python3 -m dmabuf_trace.control`` is a command to record, on a target too: standard library only.
For each shape of a leak that user space can make it starts one process that leaks a buffer so, and
one that does the same and gives the buffer back. They outlive the command, since a leak is what is
there when it has ended, and end with the process that started it: the recorder. So start it as the
recorder's command itself; where a shell is between, ``--until PID`` names the recorder.

The buffers' names say what is expected of them (:func:`name_of`), so that a recording alone can be
judged. Must not know who judges.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from dmabuf_trace import uapi
from dmabuf_trace.errors import EXIT_OK, EXIT_UNTRACEABLE, UntraceableError

SIZE: Final = 64 << 10
END_SECONDS: Final = 10.0
GIVEN_UP: Final = "control-given-up"
"""Name of a buffer that could not be leaked in the shape that was wanted, and counts for nothing.
"""

GiveBack = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Planted:
    """A buffer that was leaked in this shape, or given back; ``pid`` is 0 where not known."""

    shape: str
    leaked: bool
    inode: int
    exporter: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What was planted, and by shape why it was not where it could not be."""

    planted: tuple[Planted, ...]
    without: dict[str, str]

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"planted": [*map(asdict, self.planted)], "without": self.without})

    @classmethod
    def from_json(cls, text: str) -> Report:
        """What :meth:`to_json` made."""
        found = json.loads(text)
        return cls(tuple(Planted(**each) for each in found["planted"]), found["without"])


def name_of(shape: str, leaked: bool) -> str:
    """Name of the buffer that is leaked so, or of its twin."""
    return f"control-{'leak' if leaked else 'clean'}-{shape}"


def planted(names: Iterable[tuple[int, str]]) -> tuple[Planted, ...]:
    """What names of buffers, by inode number, say of them."""
    found = []
    for inode, name in names:
        if match := _NAME.fullmatch(name):
            found.append(Planted(match[2], match[1] == "leak", inode))
    return tuple(found)


# the shapes: each is left with an fd of a buffer and owns it, unless it fails


def _fd(fd: int, _: uapi.Exporter) -> GiveBack:
    """The fd stays open."""
    return lambda: os.close(fd)


def _mapping(fd: int, _: uapi.Exporter) -> GiveBack:
    """A VMA outlives the fd."""
    unmap = uapi.map_shared(fd)
    os.close(fd)
    return unmap


def _in_flight(fd: int, _: uapi.Exporter) -> GiveBack:
    """The fd is sent, and nobody receives it."""
    sender, receiver = socket.socketpair()
    socket.send_fds(sender, [b"x"], [fd])
    os.close(fd)

    def receive() -> None:
        os.close(socket.recv_fds(receiver, 1, 1)[1][0])
        sender.close()

    return receive


def _attachment(fd: int, exporter: uapi.Exporter) -> GiveBack:
    """Another DRM device imports the buffer, which attaches it, and never lets it go."""
    refused = []
    for card in sorted(Path("/dev/dri").glob("card*")):
        if card == exporter.node:
            continue  # would find its own object, and attach nothing
        try:
            device = uapi.Prime(card)
        except OSError as error:
            refused.append(f"{card.name}: {error.strerror}")
            continue
        try:
            handle = device.adopt(fd)
        except OSError as error:
            refused.append(f"{card.name}: {error.strerror}")
            device.close()
            continue
        os.close(fd)
        return lambda: device.release(handle)
    raise OSError(0, ", ".join(refused) or "no other DRM device to import it")


SHAPES: Final[dict[str, Callable[[int, uapi.Exporter], GiveBack]]] = {
    "fd": _fd,
    "mapping": _mapping,
    "in-flight": _in_flight,
    "attachment": _attachment,
}
"""How user space leaks a buffer in each shape; they return what gives it back."""

EVERYWHERE: Final = ("fd", "mapping", "in-flight")
"""Those that any exporter can be leaked in."""

_NAME: Final = re.compile(rf"control-(leak|clean)-({'|'.join(SHAPES)})")


def _call_it(fd: int, name: str) -> None:
    """Name a buffer; one without can't be judged from the recording alone."""
    with suppress(OSError):
        uapi.set_name(fd, name)


def _plant(shape: str, leaked: bool) -> tuple[Planted, GiveBack]:
    """Leak a buffer of the first exporter that can, or give it back; keep what is returned.

    Raises:
        UntraceableError: no exporter can, and why.
    """
    found, refused = uapi.exporters()
    for exporter in found:
        try:
            fd = exporter.export(SIZE)
        except OSError as error:
            refused.append(f"{exporter.name}: {error.strerror}")
            continue
        _call_it(fd, name_of(shape, leaked))
        row = Planted(shape, leaked, os.fstat(fd).st_ino, exporter.name, os.getpid())
        try:
            give_back = SHAPES[shape](fd, exporter)
        except OSError as error:
            refused.append(f"{exporter.name}: {error.strerror}")
            _call_it(fd, GIVEN_UP)
            os.close(fd)
            continue
        if not leaked:
            give_back()
        return row, give_back
    raise UntraceableError("; ".join(refused))


def _stay(shape: str, leaked: bool, tell: int, lease: int) -> NoReturn:
    """Be the process that planted one: tell of it, a line, and stay until the lease is over."""
    os.setsid()
    Path("/proc/self/comm").write_text(f"{'leak' if leaked else 'clean'}-{shape}")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):  # whoever waits for the end of this output must not wait
        os.dup2(nowhere, fd)
    kept: Any = None
    try:
        row, kept = _plant(shape, leaked)
        line = json.dumps(asdict(row))
    except UntraceableError as error:
        line = json.dumps(str(error))
    os.write(tell, line.encode() + b"\n")
    os.close(tell)
    if kept:
        select.select([lease], [], [])
    os._exit(0)


def plant(lease: int) -> Report:
    """Start the processes, which end when the fd ``lease`` can be read; what they have planted."""
    rows, without = [], {}
    for shape in SHAPES:
        for leaked in (True, False):
            told, tell = os.pipe()
            if not os.fork():
                os.close(told)
                try:
                    _stay(shape, leaked, tell, lease)
                finally:
                    os._exit(1)
            os.close(tell)
            with os.fdopen(told) as lines:
                found = json.loads(lines.read() or '"its process failed"')
            if isinstance(found, str):
                without[shape] = found
            else:
                rows.append(Planted(**found))
    return Report(tuple(rows), without)


def end(report: Report) -> Iterator[Planted]:
    """End what holds the buffers of a report that was just made; those that would not end."""
    for each in report.planted:
        try:
            process = os.pidfd_open(each.pid)
        except ProcessLookupError:
            continue
        with uapi.closing(process):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            if not select.select([process], [], [], END_SECONDS)[0]:
                yield each


def main() -> int:
    """Plant; exit status 0, or 4 where no exporter works."""
    parser = argparse.ArgumentParser(
        prog="python3 -m dmabuf_trace.control",
        description="Leaks a dma-buf in each shape, and gives a twin of each back; what holds them "
        "ends with the process that started this.",
    )
    parser.add_argument("--until", type=int, metavar="PID", help="end with this process instead")
    parser.add_argument("--report", type=Path, metavar="FILE", help="default: stdout")
    options = parser.parse_args()
    parent = os.getppid()
    try:
        lease = os.pidfd_open(options.until or parent)
    except OSError as error:
        parser.error(f"--until {options.until}: {error.strerror}")
    if os.getppid() != parent:
        return EXIT_OK  # nobody is left who would wait
    report = plant(lease)
    line = report.to_json() + "\n"
    if options.report:
        options.report.write_text(line)
    else:
        sys.stdout.write(line)
    if report.planted:
        return EXIT_OK
    reason = next(iter(report.without.values()))
    sys.stderr.write(f"dmabuf-trace control: no exporter of dma-bufs works here: {reason}\n")
    return EXIT_UNTRACEABLE


if __name__ == "__main__":
    sys.exit(main())
