# SPDX-License-Identifier: Apache-2.0
"""The HTML page in Chromium: it loads without a complaint, sorts, filters, zooms, prints."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from dmabuf_trace.render.text import printable
from tests.build import Build
from tests.pages import HOSTILE, busy, hostile, page_of

NAMES: Final = ("chromium", "google-chrome", "google-chrome-stable")
DESKTOP: Final = (1280, 800)
PHONE: Final = (390, 844)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no chromium: apt-get install chromium (Ubuntu has it as a snap only)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page, with all that the browser complained of."""

    def __init__(
        self, browser: Browser, file: Path, size: tuple[int, int] = DESKTOP, *, script: bool = True
    ) -> None:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height},
            has_touch=size == PHONE,
            java_script_enabled=script,
            offline=True,
        )
        self.complaints: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.goto(file.as_uri())

    def column(self, table: str, number: int) -> list[str]:
        cells = self.page.locator(f"#table-{table} tbody tr:visible td:nth-child({number})")
        return cells.all_inner_texts()

    def lives(self) -> Locator:
        return self.page.locator(".rows .life")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return written(busy(), folder)


def written(k: Build, folder: Path) -> Path:
    path = folder / "x.html"
    path.write_text(page_of(k, folder))
    return path


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Opened]:
    found = Opened(browser, file)
    yield found
    assert found.complaints == []
    found.page.context.close()


def test_tables_sort_by_exact_values_with_gaps_last(opened: Opened) -> None:
    opened.page.get_by_text("The same as a table").click()
    table = opened.page.locator("#table-lifetimes")
    size = table.get_by_role("button", name="size")

    size.click()
    falling = opened.column("lifetimes", 4)
    size.click()
    rising = opened.column("lifetimes", 4)
    until = table.get_by_role("button", name="until")
    until.click()

    assert falling[:3] == ["1 MiB", "512 KiB", "320 KiB"]
    assert rising[-3:] == ["320 KiB", "512 KiB", "1 MiB"]
    assert opened.column("lifetimes", 8)[-2:] == ["-", "-"]
    expect(table.locator("th[aria-sort]")).to_have_text("until")


def test_the_keyboard_sorts_too(opened: Opened) -> None:
    button = opened.page.locator("#table-exporters").get_by_role("button", name="buffers")

    button.focus()
    opened.page.keyboard.press("Enter")
    opened.page.keyboard.press("Enter")

    assert opened.column("exporters", 2) == ["0", "1", "24"]


def test_tables_filter(opened: Opened) -> None:
    opened.page.get_by_text("The same as a table").click()
    opened.page.get_by_label("Filter Lifetimes").fill("SYSTEM alive")

    assert opened.column("lifetimes", 3) == ["system"]
    expect(opened.page.get_by_text("1 of 26 rows")).to_be_visible()
    opened.page.get_by_label("Filter Lifetimes").fill("")
    assert len(opened.column("lifetimes", 3)) == 26


def test_time_zooms_by_buttons_keys_and_mouse(opened: Opened) -> None:
    page = opened.page
    expect(opened.lives()).to_have_count(26)

    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Zoom in").click()
    expect(opened.lives()).not_to_have_count(26)
    page.get_by_role("button", name="Show all").click()
    expect(opened.lives()).to_have_count(26)

    lanes = page.locator(".rows svg")
    lanes.focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text(re.compile(r"lives from \+0\.00s to \+1\.22s"))).to_be_visible()
    page.keyboard.press("0")

    chart = page.locator("#charts > svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 50, steps=4)
    page.mouse.up()
    expect(opened.lives()).to_have_count(2)


def test_a_life_tells_about_itself(opened: Opened) -> None:
    page = opened.page
    page.locator("article").first.get_by_role("link", name="42").click()

    expect(page.locator("output")).to_contain_text('buffer 42 "camera" system 512 KiB')
    expect(page.locator("output")).to_contain_text("2025-10-09 08:53:20")
    page.locator(".rows svg").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("output")).to_contain_text("buffer 43 vgem 64 KiB")
    page.locator("[data-at='5']").click()
    expect(page.locator("output")).to_contain_text("buffer 46 vgem")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, file: Path, size: tuple[int, int]
) -> None:
    found = Opened(browser, file, size)

    assert found.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert found.page.locator("#charts > svg").bounding_box()
    assert found.complaints == []


def test_two_fingers_zoom(browser: Browser, file: Path) -> None:
    found = Opened(browser, file, PHONE)
    expect(found.lives()).to_have_count(26)
    pinch = """svg => {
        const {left, top} = svg.getBoundingClientRect();
        const send = (type, pointerId, x) => svg.dispatchEvent(new PointerEvent(type,
            {pointerId, clientX: left + x, clientY: top + 9, pointerType: "touch", bubbles: true}));
        send("pointerdown", 1, 200); send("pointerdown", 2, 220);
        send("pointermove", 2, 300); send("pointerup", 1, 200); send("pointerup", 2, 300);
    }"""

    found.page.locator(".rows svg").evaluate(pinch)

    expect(found.lives()).not_to_have_count(26)
    assert found.complaints == []


def test_it_prints_all_that_is_folded_away(opened: Opened) -> None:
    closed = opened.page.locator("details:not([open])").count()

    pdf = opened.page.pdf(format="A4")

    assert pdf.startswith(b"%PDF")
    assert closed > 3
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("details:not([open])").count() == 0
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.locator("details:not([open])").count() == closed


def test_without_scripts_findings_and_tables_are_there(browser: Browser, file: Path) -> None:
    found = Opened(browser, file, script=False)

    expect(found.page.locator("article")).to_have_count(3)
    expect(found.page.get_by_text("The charts need JavaScript")).to_be_visible()
    assert found.column("leaks", 1) == ["42"]


def test_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    found = Opened(browser, written(hostile(), tmp_path))

    for at, name in enumerate(HOSTILE):
        found.page.locator(f".rows [data-at='{at}']").click()
        text = found.page.locator("output").inner_text()
        assert text.startswith(f'buffer {41 + at} "{printable(name)}"')
    assert re.fullmatch(r"x.dbt: \d+ findings - dmabuf-trace", found.page.title())
    assert found.complaints == []


def test_a_recording_of_nothing(browser: Browser, tmp_path: Path) -> None:
    found = Opened(browser, written(Build(), tmp_path))

    expect(found.page.get_by_text("Nothing was found that breaks a rule.")).to_be_visible()
    assert found.page.get_by_text("No buffer was seen").count()
    assert found.complaints == []
