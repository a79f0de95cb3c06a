# SPDX-License-Identifier: Apache-2.0
"""Policies: what is read, and what is refused by the line that it stands in."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmabuf_trace import check
from dmabuf_trace.policy import PolicyError, parse, reference
from dmabuf_trace.units import parse_duration
from dmabuf_trace.values import literally, quoted, read, written

ROOT = check.policy_section()


def refused(text: str | bytes) -> str:
    """The message about a policy."""
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(PolicyError) as found:
        parse("p.toml", raw, ROOT)
    assert found.value.status == 2
    return str(found.value)


def test_without_a_file_no_buffer_may_be_left_and_rules_are_on() -> None:
    values = check.policy().values

    assert values["leaks"]["fd"] == {
        "buffers": None,
        "bytes": None,
        "fds": None,
        "attachments": None,
    }
    assert values["mappings"]["max_age"] is None
    assert values["contract"]["rules"]["unmap_once"]
    assert not values["contract"]["rules"]["mapping_not_held"]
    assert values["growth"]["buffers_per_run"] == 0
    assert values["latency"] == values["allow"] == ()


def test_values_of_every_kind() -> None:
    policy = parse(
        "p.toml",
        b"""
[leaks]
min_age = "500ms"
[leaks.kernel]
buffers = 2
bytes = "64K"
[churn]
remap_share = "2.5%"
[growth]
buffers_per_run = 0.5
[contract.rules]
unmap_once = false
[[allow]]
exporter = "vivid*"
reason = "known"
expires = 2027-01-31
""",
        ROOT,
    )
    values = policy.values

    assert values["leaks"]["min_age"] == parse_duration("500ms")
    assert values["leaks"]["kernel"]["buffers"] == 2
    assert values["leaks"]["kernel"]["bytes"] == 64 << 10
    assert values["churn"]["remap_share"] == 0.025
    assert values["growth"]["buffers_per_run"] == 0.5
    assert not values["contract"]["rules"]["unmap_once"]
    (entry,) = values["allow"]
    assert entry.line == 13
    assert entry.values["expires"] == datetime.date(2027, 1, 31)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[leaks]\n\nbufers = 1\n", "p.toml:3: unknown key 'bufers'"),
        ("[leeks]\n", "p.toml:1: unknown key 'leeks'"),
        ("\n[mappings]\nmax_age = 10\n", "p.toml:3: max_age: 10 has no unit"),
        ('[mappings]\nmax_age = "10 parsecs"\n', "p.toml:2: max_age: '10 parsecs' is not a"),
        ("[leaks]\nbuffers = -1\n", "p.toml:2: buffers: -1 is no count"),
        ("[leaks]\nbuffers = true\n", "p.toml:2: buffers: True is no count"),
        ("[leaks]\nbuffers = 1.5\n", "p.toml:2: buffers: 1.5 is no count"),
        ('[leaks]\nbytes = "1 ton"\n', "p.toml:2: bytes: '1 ton' is not a size"),
        ('[churn]\nremap_share = "200%"\n', "p.toml:2: remap_share: 2.0 is no share"),
        ("leaks = 3\n", "p.toml:1: leaks is no table"),
        ("[allow]\nexporter = 'x'\n", "p.toml:1: allow is no list"),
        ("[[allow]]\nexporter = 'x'\n", "p.toml:1: reason is missing"),
        ("[[allow]]\nreason = 'x'\n", "p.toml:1: would allow everything"),
        ("[[allow]]\nexporter = 'x'\nreason = ''\n", "p.toml:3: reason: '' is no text"),
        (
            "[[allow]]\nname = 'x'\nreason = 'y'\nexpires = '2027-01-31'\n",
            "p.toml:4: expires: '2027-01-31' is no date",
        ),
        (
            "[[allow]]\nrule = 'leeks.*'\nreason = 'y'\n",
            "p.toml:1: never used: no rule is named 'leeks.*'",
        ),
        (
            "[contract.rules]\nlock_held = true\n",
            "p.toml:2: lock_held can't be judged: who owns the reservation lock is not recorded",
        ),
        ("[[latency]]\ndevice = 'gpu'\n", "p.toml:1: call is missing"),
        ("[[latency]]\ncall = 'munmap'\n", "p.toml:2: call: no 'munmap'"),
        ("[[latency]]\ncall = 'map'\n", "p.toml:1: limits nothing"),
        (
            "[[latency]]\ncall = 'map'\nexporter = 'x'\np99 = '1ms'\n",
            "p.toml:1: never used: map is judged by device, not by exporter",
        ),
        ("[leaks\n", "p.toml:1: Expected ']' at the end of a table declaration"),
        ("[leaks]\nbuffers = 1\nbuffers = 2\n", "p.toml:3: Cannot overwrite a value"),
        ("a = '''\n\n\n", "p.toml:4: "),
        (b"[leaks]\n\xff\n", "p.toml:2: not UTF-8"),
    ],
)
def test_what_is_wrong_is_told_by_its_line(text: str | bytes, message: str) -> None:
    assert refused(text).startswith(message)


def test_a_value_over_several_lines_is_at_its_first() -> None:
    text = '[leaks]\nbuffers = [\n  1,\n  2,\n]\nbytes = "1K"\n'

    assert refused(text).startswith("p.toml:2: buffers: [1, 2] is no count")


@pytest.mark.parametrize(
    ("first", "second", "is_used"),
    [
        ("exporter = '*'", "exporter = 'vivid'", False),
        ("exporter = 'vivid*'", "exporter = 'vivid-1'", False),
        ("exporter = 'vivid'", "exporter = 'vivid'\nname = 'x'", False),
        ("exporter = 'vivid'", "exporter = 'v*'", True),
        ("exporter = 'vivid'", "name = 'x'", True),
        ("exporter = 'vivid'\nname = 'x'", "exporter = 'vivid'", True),
        ("exporter = 'x'\nexpires = 2027-01-01", "exporter = 'x'", True),
        ("exporter = 'x'\nexpires = 2027-01-01", "exporter = 'x'\nexpires = 2026-01-01", False),
        ("exporter = 'x'\nexpires = 2027-01-01", "exporter = 'x'\nexpires = 2028-01-01", True),
    ],
)
def test_an_entry_that_another_comes_ahead_of(first: str, second: str, is_used: bool) -> None:
    entries = [f"[[allow]]\n{each}\nreason = 'r'\n" for each in (first, second)]
    text = "".join(entries)
    line = entries[0].count("\n") + 1

    if is_used:
        assert len(parse("p.toml", text.encode(), ROOT).values["allow"]) == 2
    else:
        assert refused(text) == f"p.toml:{line}: never used: the entry at line 1 comes first"


def test_entries_of_other_calls_are_apart() -> None:
    text = "".join(
        f"[[latency]]\ncall = '{call}'\np99 = '1ms'\n" for call in ("map", "attach", "export")
    )

    assert len(parse("p.toml", text.encode(), ROOT).values["latency"]) == 3
    assert "never used" in refused(text + "[[latency]]\ncall = 'map'\ndevice = 'x'\nmax = '1s'\n")


def test_a_file_that_cant_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"can't read .*: No such file"):
        check.policy(tmp_path / "none.toml")
    with pytest.raises(PolicyError, match=r"can't read .*: Is a directory"):
        check.policy(tmp_path)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(PolicyError, match="larger than 1 MiB"):
        check.policy(large)


def test_the_reference_says_what_holds_anyway() -> None:
    text = "\n".join(reference(ROOT))

    assert parse("p.toml", text.encode(), ROOT).values == check.policy().values
    commented = [line.removeprefix("# ") for line in text.splitlines()]
    assert "[[allow]]" in commented
    assert "max_age" in text


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_bytes_are_a_policy_or_one_error_with_a_line(raw: bytes) -> None:
    try:
        parse("p.toml", raw, ROOT)
    except PolicyError as error:
        name, line, _ = str(error).split(":", 2)
        assert name == "p.toml"
        assert 1 <= int(line) <= len(raw.decode(errors="replace").splitlines()) + 2


NAMES = st.sampled_from(
    [
        *("leaks", "fd", "kernel", "buffers", "bytes", "mappings", "device", "max_age", "latency"),
        *("call", "map", "p99", "allow", "reason", "expires", "contract", "rules", "unmap_once"),
        "x",
    ]
)
SCALARS = st.sampled_from(
    [
        *("1", "-1", "1.5", "nan", "inf", "true", '"1s"', '"64K"', '"5%"', '"x"', "''", "[]"),
        *("[1]", "{}", "{ buffers = 1 }", "2027-01-31", "1979-05-27T07:32:00Z", "9" * 5000),
    ]
)
LINES = st.one_of(
    st.tuples(NAMES, SCALARS).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    NAMES.map(lambda name: f"[{name}]"),
    NAMES.map(lambda name: f"[[{name}]]"),
    st.tuples(NAMES, NAMES).map(lambda pair: f"[{pair[0]}.{pair[1]}]"),
    st.tuples(NAMES, NAMES).map(lambda pair: f"[[{pair[0]}.{pair[1]}]]"),
    st.just("# a comment"),
)


@given(st.lists(LINES, max_size=12))
@settings(max_examples=1000, deadline=None)
def test_any_keys_are_a_policy_or_one_error_with_its_line(lines: list[str]) -> None:
    try:
        parse("p.toml", "\n".join(lines).encode(), ROOT)
    except PolicyError as error:
        line = int(str(error).split(":", 2)[1])
        assert 1 <= line <= len(lines) + 1


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_texts_are_written_as_they_are_read(text: str) -> None:
    policy = f"[[allow]]\nexporter = {quoted(literally(text))}\nreason = {quoted(text)}\n"
    (entry,) = parse("p.toml", policy.encode(), ROOT).values["allow"]

    assert entry.values["reason"] == text
    assert entry.fits({"exporter": text}, ["exporter"])
    assert not entry.fits({"exporter": f"{text}x"}, ["exporter"])


@pytest.mark.parametrize("ns", [0, 1, 1_000, 1_500_000, 10**9, 90 * 10**9])
def test_durations_are_written_as_they_are_read(ns: int) -> None:
    assert read("duration", written("duration", ns).strip('"')) == ns
