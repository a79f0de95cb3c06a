# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the commands show of a recording: ``python3 -m examples.screens RECORDING``.

``./dev screens`` makes them anew of the demo's guest. Nothing is drawn by hand.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from playwright.sync_api import ViewportSize, sync_playwright
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from tests.on_terminal import Terminal
from tests.screens import SVG

FOLDER: Final = Path(__file__).parent / "screens"
WIDTH: Final = 140
COMMAND: Final = (sys.executable, "-m", "dmabuf_trace")
SHOTS: Final = {
    "top": ("top", "--once", "--replay"),
    "leaks": ("leaks",),
    "devices": ("devices",),
    "check": ("check",),
    "events": ("events", "--event", "export,attach,map,unmap", "--window", "3s,5s"),
}
MOST_LINES: Final = 44
PAGE: Final[ViewportSize] = {"width": 1280, "height": 1600}


def draw(name: str, arguments: tuple[str, ...], recording: Path) -> None:
    """NAME.svg: what a command shows, its first lines."""
    with Terminal((*arguments, recording), WIDTH, MOST_LINES, COMMAND) as terminal:
        terminal.end()
    lines = Text.from_ansi(terminal.sent.replace("\r\n", "\n")).split("\n")
    shown = lines[:MOST_LINES]
    if len(lines) > len(shown):
        shown.append(Text(f"... and {len(lines) - len(shown):,} more lines", "dim"))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("\n").join(shown))
    title = " ".join(("dmabuf-trace", *arguments, recording.name))
    FOLDER.joinpath(f"{name}.svg").write_text(
        console.export_svg(
            title=title, theme=DEFAULT_TERMINAL_THEME, code_format=SVG, unique_id=name
        )
    )


def photograph(recording: Path) -> None:
    """page.png: the top of ``report --html`` in a browser."""
    page_file = recording.with_suffix(".html")
    subprocess.run([*COMMAND, "report", recording, "--html", page_file, "--force"], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=PAGE)
        page.goto(page_file.resolve().as_uri())
        page.screenshot(path=FOLDER / "page.png")
        browser.close()


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(prog="./dev screens", description=__doc__)
    parser.add_argument("recording", type=Path)
    recording = parser.parse_args().recording
    FOLDER.mkdir(exist_ok=True)
    for name, arguments in SHOTS.items():
        draw(name, arguments, recording)
    photograph(recording)


if __name__ == "__main__":
    main()
