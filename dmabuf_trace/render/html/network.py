# SPDX-License-Identifier: Apache-2.0
"""A graph as a picture, from left to right. Only layout: what is in it, others have decided."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from dmabuf_trace.graph import Edge, Graph, Node
from dmabuf_trace.render.html.elements import element
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import count_text

_LINE: Final = 16
_CHARS: Final = 28
"""Of a line in a box or on an edge; longer ones are cut, and whole in its title."""
_WIDE: Final = _CHARS * 7 + 16
_GAP: Final = 190
_ROW: Final = 14
_EDGE: Final = 8
_DEEPEST: Final = 4


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node is: edges come in on its left, each at a place of its own."""

    x: float
    y: float
    height: float
    incoming: int

    def port(self, number: int) -> float:
        return self.y + self.height * (number + 0.5) / self.incoming


def network(graph: Graph) -> ET.Element:
    """Each node stands right of those that it has something from."""
    places = _places(graph)
    seen: Counter[Node] = Counter()
    lines, labels = [], []
    for edge in graph.edges:
        end = places[edge.target].port(seen[edge.target])
        seen[edge.target] += 1
        lines.append(_line(edge, places[edge.source], places[edge.target], end))
        labels.append(_label(edge, places[edge.target], end))
    parts = [*lines, *labels, *(_box(node, place) for node, place in places.items())]
    width = max((each.x for each in places.values()), default=0) + _WIDE + _EDGE
    height = max((each.y + each.height for each in places.values()), default=0) + _EDGE
    size = {"viewBox": f"0 0 {width:g} {height:g}", "width": width, "height": height}
    counts = count_text(len(places), "node"), count_text(len(graph.edges), "edge")
    label = f"{', '.join(counts)}; the tables have the same"
    return element("svg", *parts, class_="network", role="img", aria_label=label, **size)


def _places(graph: Graph) -> dict[Node, _Place]:
    incoming = Counter(edge.target for edge in graph.edges)
    below: dict[int, float] = {}
    places = {}
    for node, depth in _depths(graph).items():
        y = below.get(depth, _EDGE)
        height = _LINE * max(len(node.lines), incoming[node]) + 10
        places[node] = _Place(_EDGE + depth * (_WIDE + _GAP), y, height, incoming[node])
        below[depth] = y + height + _ROW
    return places


def _depths(graph: Graph) -> dict[Node, int]:
    """How many edges in a row lead to each node, at most; circles are not followed for ever."""
    ends = (node for edge in graph.edges for node in (edge.source, edge.target))
    depths = dict.fromkeys((*graph.nodes, *ends), 0)
    for _ in range(_DEEPEST):
        for edge in graph.edges:
            deep = min(depths[edge.source] + 1, _DEEPEST)
            depths[edge.target] = max(depths[edge.target], deep)
    return depths


def _box(node: Node, place: _Place) -> ET.Element:
    title = element("title", f"{node.kind}: {', '.join(node.lines)}")
    box = element("rect", x=place.x, y=place.y, width=_WIDE, height=place.height, rx=5)
    first = place.y + (place.height - _LINE * len(node.lines)) / 2 + 12
    texts = (
        element("text", _cut(text), x=place.x + 8, y=first + _LINE * at)
        for at, text in enumerate(node.lines)
    )
    return element("g", title, box, *texts, class_=f"node {node.kind}")


def _line(edge: Edge, source: _Place, target: _Place, end: float) -> ET.Element:
    x, y = source.x + _WIDE, source.y + source.height / 2
    middle = (x + target.x) / 2
    path = f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {end:g} {target.x:g} {end:g}"
    what = f"{edge.source.lines[0]} to {edge.target.lines[0]}: {', '.join(edge.lines)}"
    return element("path", element("title", what), d=path, class_="edge")


def _label(edge: Edge, target: _Place, end: float) -> ET.Element:
    return element("text", _cut(", ".join(edge.lines)), x=target.x - 6, y=end - 4, class_="label")


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _CHARS else f"{text[: _CHARS - 1]}\u2026"
