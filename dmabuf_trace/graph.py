# SPDX-License-Identifier: Apache-2.0
"""An answer as a graph: who is in it, and what goes from one to another.

Texts may be hostile: they are escaped where the graph is written. Must not know how it is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NodeKind = Literal["exporter", "process", "device"]


@dataclass(frozen=True, slots=True)
class Node:
    """Two of the same kind with the same lines are one."""

    kind: NodeKind
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """What goes from one node to another."""

    source: Node
    target: Node
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """``nodes`` may leave out those that edges have."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
