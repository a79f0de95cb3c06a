# SPDX-License-Identifier: Apache-2.0
"""The command that tells what this kernel lets us see, and which findings that allows."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from dmabuf_trace.cli.app import app
from dmabuf_trace.errors import EXIT_OK, EXIT_UNTRACEABLE
from dmabuf_trace.render.text import printable

if TYPE_CHECKING:
    from dmabuf_trace.features import Feature
    from dmabuf_trace.sight import Gap, Sight

WIDTH = 80


def gaps(features: list[Feature]) -> dict[str, Gap]:
    """What is missing, by event kind or part of a look, and why."""
    from dmabuf_trace.sight import Gap

    given: dict[str, list[Feature]] = {}
    for feature in features:
        for name in feature.gives:
            given.setdefault(name, []).append(feature)
    found = {}
    for name, givers in given.items():
        if without := [each for each in givers if not each.found]:
            found[name] = Gap(without[0].detail, whole=len(without) == len(givers))
    return found


def table(seen: list[Sight]) -> Iterator[str]:
    """A row per finding; those that no kernel shows share one per analysis."""
    rows = []
    for about, of in groupby(seen, key=lambda each: each.about):
        mine = list(of)
        rows += [(each.finding, each.here, each.why) for each in mine if not each.never]
        if names := [each.name for each in mine if each.never]:
            rows.append((f"{about}: {len(names)} more", "no", f"on no kernel: {', '.join(names)}"))
    titles = ("finding", "here", "why")
    first, second = (max(len(row[at]) for row in (titles, *rows)) for at in (0, 1))
    for finding, here, why in (titles, *rows):
        head = f"  {finding:<{first}}  {here:<{second}}  "
        lines = textwrap.wrap(printable(why), WIDTH - len(head), break_on_hyphens=False)
        yield f"{head}{lines[0] if lines else ''}".rstrip()
        yield from (" " * len(head) + line for line in lines[1:])


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Try what this kernel lets us see, say what is lost where it doesn't, and what can be found.

    Exit status 0 where recording works, 4 where it doesn't.
    """
    from dmabuf_trace.features import examine
    from dmabuf_trace.sight import sights

    features = examine()
    refused = [feature.name for feature in features if feature.needed and not feature.found]
    works = not refused
    nothing = f"nothing can be recorded: no {', '.join(refused)}" if refused else ""
    system = os.uname()
    seen = list(sights(gaps(features), system.release, nothing))
    if as_json:
        document = {
            "release": system.release,
            "works": works,
            "features": [asdict(feature) for feature in features],
            "findings": [
                {"finding": each.finding, "here": each.here, "why": each.why} for each in seen
            ],
        }
        print(json.dumps(document, indent=2))
    else:
        print(f"kernel {system.release} {system.machine}")
        width = max(len(feature.name) for feature in features)
        for feature in features:
            mark = "yes" if feature.found else "NO "
            tail = "" if feature.found else f"; without it {feature.without}"
            print(f"  {mark}  {feature.name:<{width}}  {feature.detail}{tail}")
        print("recording works here" if works else "recording does not work here")
        if works:
            print("\nwhat can be found here")
            print("\n".join(table(seen)))
    raise typer.Exit(EXIT_OK if works else EXIT_UNTRACEABLE)
