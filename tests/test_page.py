# SPDX-License-Identifier: Apache-2.0
"""The HTML page, as a parser that others wrote sees it: what is there, and that names are text."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import html5lib
import pytest

from dmabuf_trace import gather, lifetimes, page, trace
from dmabuf_trace.render.html import page_html, tables
from dmabuf_trace.render.text import printable
from tests.build import KIB, MIB, US, Build, S
from tests.pages import HOSTILE, busy, hostile, page_of


def parsed(text: str) -> ET.Element:
    """The document; bad HTML is an error."""
    parser = html5lib.HTMLParser(strict=False, namespaceHTMLElements=False)
    tree: ET.Element = parser.parse(text)
    # a comment ahead of the doctype is allowed by the standard
    assert not [code for _, code, _ in parser.errors], parser.errors
    return tree


def text_of(element: ET.Element) -> str:
    return "".join(element.itertext())


def find(tree: ET.Element, name: str, **attributes: str) -> Iterator[ET.Element]:
    for element in tree.iter():
        tag = str(element.tag).rpartition("}")[2]
        if tag == name and all(element.get(key) == text for key, text in attributes.items()):
            yield element


def by_id(tree: ET.Element, name: str) -> ET.Element:
    (found,) = (element for element in tree.iter() if element.get("id") == name)
    return found


def data(tree: ET.Element) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(by_id(tree, "data").text or "")
    return found


def rows(tree: ET.Element, table: str) -> list[list[str]]:
    body = next(find(by_id(tree, f"table-{table}"), "tbody"))
    return [[text_of(cell) for cell in row] for row in body]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> ET.Element:
    return parsed(page_of(busy(), tmp_path_factory.mktemp("page")))


def test_what_is_wrong_comes_first_with_evidence_cause_and_next_step(tree: ET.Element) -> None:
    findings = [
        (text_of(next(find(each, "h3"))), [text_of(dt) for dt in find(each, "dt")])
        for each in find(tree, "article")
    ]

    assert [title for title, _ in findings] == [
        'leaks.fd1 buffer, 512 KiB of system "camera", kept by an open fd',
        "mappings.max_agedevice csi held 1 mapping for up to 2.44s, 1s is the most",
        "errors1 call of attach failed with EBUSY: device isp",
    ]
    for _, labels in findings:
        assert {"evidence", "cause", "next"} <= set(labels)
    assert "heap_alloc < heap_ioctl" in text_of(next(find(tree, "article")))
    sections = [text_of(next(find(each, "h2"))) for each in find(tree, "section")]
    assert sections[0] == "Findings"


def test_the_header_says_what_it_is_and_what_was_lost(tree: ET.Element) -> None:
    header = text_of(next(find(tree, "header")))

    assert "6.12.0-test x86_64 on board" in header
    assert "2025-10-09 08:53:20 UTC, 2.44s" in header
    assert "0 lost" in header
    assert "3 findings" in header
    assert "What may be missing: nothing: no event lost" in header
    assert "The most memory alive at once: 2.06 MiB in 4 buffers" in header


def test_loss_and_blindness_are_in_the_header(tmp_path: Path) -> None:
    k = Build(unobserved=("fence_wait",))
    k.export()
    k.lose("release", "ring_full", 7)
    found = parsed(page_of(k, tmp_path, cut=True))

    header = text_of(next(find(found, "header")))
    for told in (
        "7 lost",
        "fence_wait (not asked for)",
        "the recording ends without its end block",
        "may be wrong: 7 events lost (release 7)",
        "inconclusive",
    ):
        assert told in header
    assert "ring_full" in text_of(by_id(found, "table-quality"))


def test_an_unknown_size_is_not_zero(tmp_path: Path) -> None:
    k = Build()
    k.attach(k.existing())
    found = parsed(page_of(k, tmp_path))

    assert "1 buffer of unknown size: counted, but not in sizes" in text_of(by_id(found, "time"))
    assert rows(found, "lifetimes")[0][3] == "-"
    assert "size unknown" in data(found)["lives"][0]["text"]


def test_each_answer_of_the_report_is_there(tree: ET.Element, tmp_path: Path) -> None:
    made = page.read(busy().write(tmp_path / "x.dbt")).report

    for result in made.results:
        section = by_id(tree, f"analysis-{result.analysis.name}")
        assert result.analysis.question in text_of(section)
        for table in result.answer.tables:
            if len(table.rows):
                assert len(rows(section, table.name)) == len(table.rows)


def test_values_are_exact_where_people_read_roundings(tree: ET.Element) -> None:
    (cell,) = (cell for cell in find(by_id(tree, "table-leaks"), "td") if cell.text == "512 KiB")
    assert (cell.get("title"), cell.get("data-value")) == ("524,288 bytes", "524288")
    cell = next(find(by_id(tree, "table-lifetimes"), "td", title="2,440,000,000 ns"))
    assert (cell.text, cell.get("data-value")) == ("2.44s", "2440000000")


def test_times_have_the_wall_clock_beside_them(tmp_path: Path) -> None:
    k = Build()
    k.wait(5 * S)
    k.export()
    found = parsed(page_of(k, tmp_path))

    (cell,) = find(by_id(found, "table-lifetimes"), "td", title="2025-10-09 08:53:25 UTC")
    assert cell.text == "+5.000000s"


def test_what_the_script_draws(tree: ET.Element) -> None:
    drawn = data(tree)

    assert drawn["duration"] == 2_440_000_000
    assert drawn["levels"][0][:2] == [0, 512 * KIB + 64 * KIB + MIB]
    assert len(drawn["lives"]) == 26
    assert drawn["lives"][1] == {
        "inode": 42,
        "label": '42 "camera" system 512 KiB',
        "text": 'buffer 42 "camera" system 512 KiB, exported by app-100, 2.44s old: alive',
        "kind": "alive",
        "from": 0,
        "to": None,
    }
    assert [life["kind"] for life in drawn["lives"]].count("older") == 1


def test_histograms_and_the_graph_need_no_script(tree: ET.Element) -> None:
    captions = [text_of(each) for each in find(by_id(tree, "latency"), "figcaption")]
    titles = [text_of(each) for each in find(by_id(tree, "sharing"), "title")]

    assert captions[1].startswith("gpu virtio_gpu pci 24 maps, p50 9us, p95 21us")
    assert "below 4.1us: 4 maps" in [
        text_of(each) for each in find(by_id(tree, "latency"), "title")
    ]
    assert "exporter: vgem, 24 buffers, 4.38 MiB" in titles
    assert "app-100 to viewer-812: system, 1 buffer, 512 KiB" in titles


def test_names_are_text(tmp_path: Path) -> None:
    text = page_of(hostile(), tmp_path)
    found = parsed(text)

    assert not re.search(r"[^ -~\n]", text)
    assert len(list(find(found, "script"))) == 2
    assert {str(each.tag).rpartition("}")[2] for each in found.iter()} <= KNOWN
    attributes = {key for each in found.iter() for key in each.attrib}
    assert not [key for key in attributes if key.startswith("on") or key == "style"]
    assert all((each.get("href") or "").startswith("#") for each in find(found, "a"))
    lives = next(find(by_id(found, "table-lifetimes"), "tbody"))
    for row, name in zip(lives, HOSTILE, strict=True):
        assert [text_of(cell) for cell in row][1:3] == [printable(name)] * 2
    for life, name in zip(data(found)["lives"], HOSTILE, strict=True):
        assert f'"{printable(name)}"' in life["label"]


KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section"),
    *("article", "footer", "h1", "h2", "h3", "p", "a", "dl", "dt", "dd", "ul", "li", "code"),
    *("strong", "span", "div", "details", "summary", "table", "caption", "thead", "tbody", "tr"),
    *("th", "td", "figure", "figcaption", "svg", "g", "rect", "line", "path", "text", "script"),
}
"""Elements that the page is made of."""


def test_nothing_but_its_own_style_and_script_may_run_or_be_loaded(tree: ET.Element) -> None:
    (policy,) = (meta.get("content") or "" for meta in find(tree, "meta") if meta.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,) = find(tree, "style")
    script = next(each for each in find(tree, "script") if each.get("id") is None)

    def allowed(element: ET.Element) -> str:
        digest = hashlib.sha256((element.text or "").encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "style-src": allowed(style),
        "script-src": allowed(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [each for each in tree.iter() if each.get("src") or each.get("xlink:href")]


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetimes, "MOST", 5)
    monkeypatch.setattr(page, "EDGES", 1)
    file = busy().write(tmp_path / "x.dbt")
    found = page.read(file)

    told = text_of(parsed(page_html(found)))
    assert "5 of 26 buffers shown: those alive at the end first, then by size times life" in told
    assert "1 of 4 processes and 1 of 2 devices shown, the largest" in told
    shown = found.lifetimes.answer.tables[0].rows
    assert shown["inode"].tolist()[:2] == [41, 42]
    table = found.table("footprint", "timeline")
    text = "".join(text_of(part) for part in tables.table_parts(table, CLOCK, 2))
    assert f"2 of {len(table.rows)} shown" in text


CLOCK = page_html.__globals__["Clock"](None)


def test_lifetimes_are_the_same_in_stretches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.dbt"
    whole = page.read(busy().write(file))
    file.unlink()
    monkeypatch.setattr(gather, "PACKED_EVENTS", 1)
    monkeypatch.setattr(trace, "STRETCH_EVENTS", 60)
    busy().write(file)

    assert len(list(trace.stretches(file))) > 3
    assert page_html(page.read(file)) == page_html(whole)


def run(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dmabuf_trace", "report", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, check=False
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    k = Build()
    k.map(k.attach(k.export(fd=3)), dur=US)
    return k.write(tmp_path / "x.dbt")


def test_it_goes_to_a_file_or_to_stdout(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.html"

    done, piped = run(file, "--html", out), run(file, "--html", "-", PYTHONIOENCODING="latin-1")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (piped.returncode, piped.stderr) == (0, "")
    assert out.read_text() == piped.stdout
    assert piped.stdout.endswith("</html>\n")


def test_what_can_not_be_written_is_refused_ahead_of_the_analysis(tmp_path: Path) -> None:
    bad = tmp_path / "no.dbt"  # not there: who looked at it would say so
    there = tmp_path / "there.html"
    there.write_text("kept")

    for out, told in (
        (there, f"{there} exists"),
        (tmp_path, f"{tmp_path} is not a regular file\n  --html - is stdout\n"),
        (tmp_path / "none" / "x.html", f"can't write {tmp_path / 'none' / 'x.html'}"),
    ):
        found = run(bad, "--html", out)
        assert (found.returncode, found.stdout) == (2, "")
        assert found.stderr.startswith(f"dmabuf-trace: {told}")
    assert there.read_text() == "kept"


def test_a_bad_recording_leaves_no_page(tmp_path: Path) -> None:
    found = run(tmp_path / "no.dbt", "--html", tmp_path / "x.html")

    assert found.returncode == 2
    assert not list(tmp_path.iterdir())


def test_force_replaces(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.html"
    out.write_text("old")

    assert run(file, "--html", out, "--force").returncode == 0
    assert "old" not in out.read_text()[:10]


def test_it_is_either_html_or_json(file: Path) -> None:
    found = run(file, "--html", "-", "--json")

    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("dmabuf-trace: --json and --html are two kinds of output\n")
