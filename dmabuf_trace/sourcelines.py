# SPDX-License-Identifier: Apache-2.0
"""Frames of kernel stacks -> lines of source, by debug information and addr2line (binutils).

addr2line knows every version and compression of DWARF, and modules, which are not linked; only
which section a function is in has to be told it. A frame is a return address: its call is ahead of
it. Where the compiler inlined, the line is that of the call itself, in the function that it was
written in. Must not know recordings.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from dmabuf_trace.elf import Elf, Function
from dmabuf_trace.errors import InputError
from dmabuf_trace.stacks import is_core

Location = tuple[str, int]
"""File and line, from 1."""

FRAME: Final = re.compile(r"(?P<name>[^ +]+)\+0x(?P<offset>[0-9a-f]+)(?: \[(?P<module>[^ ]+)\])?")
"""As :mod:`symbols` writes a frame; a bare address is none."""

_MACHINES: Final = {62: ("x86_64", "elf64-x86-64"), 183: ("aarch64", "elf64-littleaarch64")}
"""By e_machine: its name in those of tools, and what addr2line calls its files. One that does not
know them may read them as those of no machine, and then tells wrong lines."""

_LINE: Final = re.compile(r"(?P<file>.+):(?P<line>[1-9][0-9]*)(?: \(discriminator [0-9]+\))?")

_Place = tuple[Path, Function, int]
"""A function of a file, and the offset of a call in it."""


class Lines:
    """What files with debug information (vmlinux, MODULE.ko) tell of frames.

    ``builds`` are build ids by module (:attr:`Trace.builds`), "" being the kernel: a file of
    another build is not used, and :attr:`notes` say so. Where a recording has none of a module, a
    file is another build if it lacks a function, or its function is too short. ``root`` is stripped
    from paths below it.

    Raises:
        InputError: a file can't be read, is no ELF file, or has no debug information; there is no
            addr2line for it.
    """

    def __init__(
        self,
        files: Iterable[Path],
        builds: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> None:
        self._builds = builds or {}
        self._root = root and os.path.normpath(root)
        self._notes: dict[Path, str] = {}
        self._files: dict[str, Elf] = {}
        self._tools: dict[Path, list[str]] = {}
        self._known: dict[_Place, Location | None] = {}
        for path in files:
            self._add(path)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each file that is not, or not wholly, what was running, as far as is seen."""
        return tuple(self._notes.values())

    def of(self, frames: Sequence[str]) -> list[Location | None]:
        """The line of each frame's call; None: not known."""
        places = [self._places(frame) for frame in frames]
        self._look_up(place for each in places for place in each)
        return [self._agreed(each) for each in places]

    def locations(self, stacks: Iterable[Sequence[str]]) -> list[Location | None]:
        """Of each stack, innermost frame first, the line that it leads to.

        That is the first one known of those outside the dma-buf core: a call in a driver, for all
        stacks by one run of addr2line a file and section.
        """
        places = [
            [self._places(frame) for frame in frames if not is_core(frame)] for frames in stacks
        ]
        self._look_up(place for stack in places for each in stack for place in each)
        return [next(filter(None, map(self._agreed, stack)), None) for stack in places]

    def _add(self, path: Path) -> None:
        elf = Elf(path)
        what = f"module {elf.module}" if elf.module else "the kernel"
        if not elf.has_lines:
            raise InputError(
                f"{path} has no debug information", "give one built with CONFIG_DEBUG_INFO"
            )
        wanted = self._builds.get(elf.module)
        if wanted and elf.build_id != wanted:
            self._notes[path] = (
                f"{path} is not used: its build id is {elf.build_id or 'not there'}, that of "
                f"{what} in the recording is {wanted}"
            )
        elif elf.module in self._files:
            other = self._files[elf.module].path
            self._notes[path] = f"{path} is not used: {other} is {what} already"
        else:
            self._files[elf.module] = elf
            self._tools[path] = _tool(elf)

    def _places(self, frame: str) -> tuple[_Place, ...]:
        """Where the call may be: in each function of that name that is long enough."""
        found = FRAME.fullmatch(frame)
        elf = self._files.get(found["module"] or "") if found else None
        if not found or not elf:
            return ()
        offset = max(int(found["offset"], 16) - 1, 0)
        named = elf.named(found["name"])
        fitting = [function for function in named if offset < function.size]
        checked = elf.module in self._builds
        if not fitting and not checked and all(function.size for function in named):
            self._notes[elf.path] = (
                f"{elf.path} is of another build than the recording: it has no {found['name']} of "
                f"more than {offset} bytes"
            )
        return tuple((elf.path, function, offset) for function in fitting)

    def _look_up(self, places: Iterable[_Place]) -> None:
        wanted: dict[tuple[Path, str], list[_Place]] = defaultdict(list)
        for place in dict.fromkeys(places):
            if place not in self._known:
                wanted[place[0], place[1].section].append(place)
        for (path, section), mine in wanted.items():
            addresses = [function.offset + offset for _, function, offset in mine]
            told = _ask(self._tools[path], path, section, addresses)
            self._known |= dict(zip(mine, map(self._location, told), strict=True))

    def _agreed(self, places: tuple[_Place, ...]) -> Location | None:
        """Of static functions of one name, only what is true of each."""
        found = {self._known[place] for place in places}
        return found.pop() if len(found) == 1 else None

    def _location(self, text: str) -> Location | None:
        """What addr2line says: ``FILE:LINE``, with ``?`` for what it does not know."""
        found = _LINE.fullmatch(text)
        if not found or found["file"] == "??":
            return None
        path = os.path.normpath(found["file"])
        if self._root and PurePosixPath(path).is_relative_to(self._root):
            path = str(PurePosixPath(path).relative_to(self._root))
        return path, int(found["line"])


def _tool(elf: Elf) -> list[str]:
    """An addr2line for the machine that a file is for, and its options."""
    if elf.machine not in _MACHINES:
        raise InputError(f"{elf.path} is neither for x86-64 nor for arm64")
    machine, target = _MACHINES[elf.machine]
    for name in (f"{machine}-linux-gnu-addr2line", "addr2line"):
        if shutil.which(name):
            return [name, f"--target={target}"]
    raise InputError(f"{elf.path} needs addr2line", "apt-get install binutils")


def _ask(tool: Sequence[str], path: Path, section: str, addresses: Sequence[int]) -> list[str]:
    """A line of addr2line's for each address in a section."""
    done = subprocess.run(
        [*tool, f"--exe={path}", f"--section={section}"],
        input="".join(f"{address:#x}\n" for address in addresses),
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    lines = done.stdout.split("\n")[:-1]
    if done.returncode or len(lines) != len(addresses):
        said = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise InputError(
            f"{tool[0]} can't read {path}: {said}",
            "of another machine? apt-get install binutils-multiarch",
        )
    return lines
