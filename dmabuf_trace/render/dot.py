# SPDX-License-Identifier: Apache-2.0
"""A graph in DOT, the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dmabuf_trace.render.text import printable

if TYPE_CHECKING:
    from dmabuf_trace.analysis import Result
    from dmabuf_trace.graph import Graph, NodeKind

_SHAPES: Final[dict[NodeKind, str]] = {
    "exporter": "folder",
    "process": "ellipse",
    "device": "component",
}
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "&": "&amp;"})
"""A backslash begins an escape and an ampersand an entity, of the label if not of the language."""


def result_dot(result: Result, graph: Graph) -> str:
    """One analysis; doubts and notes are comments."""
    return "\n".join(_lines(result, graph))


def _lines(result: Result, graph: Graph) -> Iterator[str]:
    for remark in (result.analysis.question, *result.doubts, *result.answer.notes):
        yield f"// {printable(remark)}"
    ends = (node for edge in graph.edges for node in (edge.source, edge.target))
    names = {node: f"n{nth}" for nth, node in enumerate(dict.fromkeys((*graph.nodes, *ends)))}
    yield f"digraph {result.analysis.name} {{"
    yield "  rankdir=LR;"
    for node, name in names.items():
        yield f"  {name} [shape={_SHAPES[node.kind]}, label={_label(node.lines)}];"
    for edge in graph.edges:
        yield f"  {names[edge.source]} -> {names[edge.target]} [label={_label(edge.lines)}];"
    yield "}"


def _label(lines: tuple[str, ...]) -> str:
    return '"' + r"\n".join(printable(line).translate(_ESCAPES) for line in lines) + '"'
