# SPDX-License-Identifier: Apache-2.0
"""Policies: what a check tolerates, in TOML. Keys are declared by whoever judges by them.

Owns reading and its errors: each names the line and what would be right. Must not know what the
keys mean.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, NoReturn

from dmabuf_trace.errors import InputError
from dmabuf_trace.values import EXAMPLES, Kind, read, written

MAX_BYTES: Final = 1 << 20

Values = dict[str, Any]
"""Values of a section by key, as :func:`values.read` gives them; None: not given, and no default.
Sub-sections are Values, lists of entries tuples of :class:`Entry`."""


class PolicyError(InputError):
    """A policy can't be used; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: ``doc`` says what it asks, ``default`` is what holds where it is not given.

    A ``pattern`` is a name, with ``*`` and ``?`` as in a shell.
    """

    name: str
    kind: Kind
    doc: str
    default: Any = None
    choices: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A table of keys, or with ``entries`` a list of such, of which the first that fits counts.

    ``refused`` are keys that would be here, with the reason why they can't. ``objection`` is told
    the values of one entry and says what is wrong with them together; "": nothing.
    """

    name: str
    doc: str
    keys: tuple[Key, ...] = ()
    sections: tuple[Section, ...] = ()
    entries: bool = False
    refused: tuple[tuple[str, str], ...] = ()
    objection: Callable[[Values], str] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One of a list; ``line`` is where it begins."""

    line: int
    values: Values

    def fits(self, facts: dict[str, str], patterns: Sequence[str]) -> bool:
        """Whether each pattern that is given matches; a fact that is not known matches none."""
        return all(
            name in facts and fnmatchcase(facts[name], self.values[name])
            for name in patterns
            if self.values[name] is not None
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """Values by section; ``path`` is "" where no file was given."""

    path: str
    values: Values


def default(root: Section) -> Policy:
    """What holds without a file."""
    return Policy("", _Reading("", "", {}).section(root, {}, ()))


def load(path: Path, root: Section) -> Policy:
    """Read a policy.

    Raises:
        PolicyError: it can't be read, or says what the sections of ``root`` do not allow.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"can't read {path}: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise PolicyError(f"{path} is larger than {MAX_BYTES >> 20} MiB: no policy")
    return parse(str(path), raw, root)


def parse(path: str, raw: bytes, root: Section) -> Policy:
    """A policy of the bytes of a file.

    Raises:
        PolicyError: see :func:`load`.
    """
    try:
        text = raw.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{path}:{line}: not UTF-8", "policies are TOML") from None
    except (ValueError, RecursionError) as error:
        where = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(where[1]) if where else text.count("\n") + 1
        what = re.sub(r"\s*\(at .*\)$", "", str(error)) or type(error).__name__
        raise PolicyError(f"{path}:{line}: {what}", "policies are TOML") from None
    return Policy(path, _Reading(path, text, document).section(root, document, ()))


Place = tuple[str | int, ...]
"""Keys and positions in lists that lead to a value."""


@dataclass(frozen=True)
class _Reading:
    path: str
    text: str
    document: dict[str, Any]

    def section(self, section: Section, given: Any, place: Place) -> Values:
        """Values of a table."""
        if not isinstance(given, dict):
            self._refuse(place, f"{section.name} is no table", f"write [{_dotted(place)}]")
        known = {key.name: key for key in section.keys}
        parts = {part.name: part for part in section.sections}
        reasons = dict(section.refused)
        for name in given:
            if name in reasons:
                self._refuse((*place, name), f"{name} can't be judged: {reasons[name]}")
            if name not in known and name not in parts:
                there = ", ".join([*known, *parts])
                self._refuse((*place, name), f"unknown key {name!r}", f"there are: {there}")
        values: Values = {}
        for key in section.keys:
            values[key.name] = self._value(key, given, place)
        for part in section.sections:
            inner = (*place, part.name)
            if part.entries:
                values[part.name] = self._entries(part, given.get(part.name, []), inner)
            else:
                values[part.name] = self.section(part, given.get(part.name, {}), inner)
        return values

    def _value(self, key: Key, given: dict[str, Any], place: Place) -> Any:
        if key.name not in given:
            if key.required:
                self._refuse(place, f"{key.name} is missing", key.doc)
            return key.default
        here = (*place, key.name)
        try:
            value = read(key.kind, given[key.name])
        except InputError as error:
            self._refuse(here, f"{key.name}: {error}", error.hint)
        if key.choices and value not in key.choices:
            self._refuse(here, f"{key.name}: no {value!r}", f"there are: {', '.join(key.choices)}")
        return value

    def _entries(self, section: Section, given: Any, place: Place) -> tuple[Entry, ...]:
        if not isinstance(given, list):
            self._refuse(place, f"{section.name} is no list", f"write [[{_dotted(place)}]]")
        found: list[Entry] = []
        for index, table in enumerate(given):
            here = (*place, index)
            entry = Entry(self._line(here), self.section(section, table, here))
            if section.objection and (wrong := section.objection(entry.values)):
                self._refuse(here, wrong)
            for earlier in found:
                if _covers(section, earlier.values, entry.values):
                    what = f"never used: the entry at line {earlier.line} comes first"
                    self._refuse(here, what, "put what is narrower ahead of what is wider")
            found.append(entry)
        return tuple(found)

    def _refuse(self, place: Place, what: str, hint: str = "") -> NoReturn:
        raise PolicyError(f"{self.path}:{self._line(place)}: {what}", hint)

    def _line(self, place: Place) -> int:
        """Where a value begins: after the longest part of the text that does not have it yet.

        A part that ends within a value is no TOML: the next longer one that is counts for it.
        """
        lines = self.text.splitlines(keepends=True)
        first, last = 1, max(len(lines), 1)
        while first < last:
            middle = (first + last) // 2
            if self._has(lines, middle, place):
                last = middle
            else:
                first = middle + 1
        return first

    def _has(self, lines: list[str], count: int, place: Place) -> bool:
        for end in range(count, len(lines)):
            try:
                document = tomllib.loads("".join(lines[:end]))
            except (ValueError, RecursionError):
                continue
            return _is_in(document, place)
        return _is_in(self.document, place)


def _is_in(value: Any, place: Place) -> bool:
    for step in place:
        if isinstance(step, int):
            if not isinstance(value, list) or len(value) <= step:
                return False
        elif not isinstance(value, dict) or step not in value:
            return False
        value = value[step]
    return True


def _dotted(place: Place) -> str:
    return ".".join(step for step in place if isinstance(step, str))


def _covers(section: Section, wide: Values, narrow: Values) -> bool:
    """Whether whatever fits the ``narrow`` entry has fitted the ``wide`` one."""
    for key in section.keys:
        mine, other = wide[key.name], narrow[key.name]
        if key.kind == "pattern" and mine is not None and mine != "*":
            exact = other is not None and not re.search(r"[*?[]", other)
            if mine != other and not (exact and fnmatchcase(other, mine)):
                return False
        if key.choices and key.kind == "text" and mine != other:
            return False
        if key.kind == "date" and mine is not None and (other is None or other > mine):
            return False
    return True


def reference(root: Section) -> Iterator[str]:
    """Every key with its meaning and default, as a policy that says what holds anyway."""
    yield from _reference(root, ())


def _reference(section: Section, place: tuple[str, ...]) -> Iterator[str]:
    for key in section.keys:
        shown = _toml(key)
        yield f"# {key.doc}"
        yield shown if key.default is not None else f"# {shown}"
    for part in section.sections:
        inner = (*place, part.name)
        head = ".".join(inner)
        if part.keys and set(part.keys) < set(section.keys):
            yield f"# [{head}]  # {part.doc}: the same limits, for these alone"
            continue
        yield ""
        yield f"# {part.doc}"
        if part.entries:
            yield f"# [[{head}]]"
            for key in part.keys:
                yield f"# {_toml(key)}  # {key.doc}"
        else:
            if part.keys:
                yield f"[{head}]"
            yield from _reference(part, inner)


def _toml(key: Key) -> str:
    shown = EXAMPLES[key.kind] if key.default is None else written(key.kind, key.default)
    return f"{key.name} = {shown}"
