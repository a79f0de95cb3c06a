# SPDX-License-Identifier: Apache-2.0
"""Nothing imports upwards, and each command pays only for what it needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.build import Build

ROOT: Final = Path(__file__).parents[1]

LAYERS: Final = (
    ("version", "errors", "errnos", "threads", "memory", "progress", "ahead"),
    ("remote",),
    ("kinds", "elf"),
    ("schema", "units", "options", "header", "printer"),
    ("values", "stacks", "stderr"),
    ("policy",),
    ("probes", "symbols", "cgroups", "libbcc", "builds"),
    ("loader",),
    ("ring", "features", "framing", "packing", "blocks", "uapi"),
    ("control",),
    ("gather",),
    ("recording",),
    ("extent",),
    ("bufinfo", "filters", "userstacks"),
    ("watch",),
    ("snapshot", "operations"),
    ("capture",),
    ("session", "sizes"),
    ("steering", "livestacks"),
    ("recorder",),
    ("request", "notes"),
    ("tables",),
    ("names", "accounting"),
    ("brackets", "lines"),
    ("replay",),
    ("fds", "calls"),
    ("pairing",),
    ("lifecycle",),
    ("columns", "reconcile", "sourcelines"),
    ("frames",),
    ("tail",),
    ("reading",),
    ("quality",),
    ("source",),
    ("lives", "moments"),
    ("trace", "graph"),
    ("analysis",),
    ("holders", "measure", "processes"),
    ("levels", "overlaps", "trend", "taken", "limits"),
    ("latency", "rules", "lifetimes"),
    ("analyses",),
    ("report", "story", "diff", "findings"),
    ("checks",),
    ("allowed",),
    ("check",),
    ("sight", "proof", "page"),
    ("render",),
    ("outputs", "top"),
    ("exports",),
    ("leftovers",),
    ("pytest_plugin",),
    ("cli", "target"),
    ("__main__",),
)
"""From the kernel up: a module imports only from layers below its own."""

FOUNDATION: Final = {
    "version",
    "errors",
    "errnos",
    "remote",
    "threads",
    "memory",
    "kinds",
    "elf",
    "schema",
    "units",
    "options",
    "values",
    "stacks",
    "policy",
    "framing",
    "packing",
    "gather",
    "blocks",
    "recording",
    "extent",
    "uapi",
    "control",
    "header",
    "printer",
    "progress",
    "ahead",
    "stderr",
}
LIVE: Final = {"probes", "symbols", "loader", "ring", "features", "snapshot", "capture"} | {
    "bufinfo",
    "builds",
    "cgroups",
    "operations",
    "filters",
    "libbcc",
    "livestacks",
    "session",
    "steering",
    "recorder",
    "sizes",
    "request",
    "notes",
    "userstacks",
    "watch",
}
COMMAND_LINES: Final = {"cli", "target", "__main__"}
LEVEL: Final = {name: level for level, names in enumerate(LAYERS) for name in names}
OFFLINE: Final = {
    name for name in LEVEL if LEVEL["tables"] <= LEVEL[name] <= LEVEL["pytest_plugin"]
}


def sources() -> list[tuple[str, Path]]:
    """Each module's layer and file."""
    files = [*(ROOT / "dmabuf_trace").rglob("*.py"), *(ROOT / "analyses").glob("*.py")]
    return [
        (layer_of(file), file) for file in files if file.name != "__init__.py" or layer_of(file)
    ]


def layer_of(file: Path) -> str:
    first, *rest = file.relative_to(ROOT).parts
    return "analyses" if first == "analyses" else rest[0].removesuffix(".py")


def imported(file: Path) -> Iterator[str]:
    """Layers of this project that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import hides its layer"
            module = node.module or ""
            whole = module == "dmabuf_trace"
            names = [f"{module}.{alias.name}" for alias in node.names] if whole else [module]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "dmabuf_trace" and rest:
                yield rest.partition(".")[0]


CASES = [
    pytest.param(layer, file, id=str(file.relative_to(ROOT)))
    for layer, file in sorted(sources())
    if layer != "__init__"
]


@pytest.mark.parametrize(("layer", "file"), CASES)
def test_imports_go_down(layer: str, file: Path) -> None:
    assert layer in LEVEL, f"{file.name} has no place in LAYERS"
    for name in imported(file):
        assert name in LEVEL, f"{name} has no place in LAYERS"
        assert name == layer or LEVEL[name] < LEVEL[layer], f"{layer} imports {name}, above it"


@pytest.mark.parametrize(("layer", "file"), CASES)
def test_live_and_offline_meet_only_in_the_recording(layer: str, file: Path) -> None:
    other = OFFLINE if layer in LIVE else LIVE
    assert layer in COMMAND_LINES or not other & set(imported(file))


@pytest.mark.parametrize(("layer", "file"), CASES)
def test_no_code_imports_an_analysis_by_name(layer: str, file: Path) -> None:
    assert "analyses" not in imported(file) or layer == "analyses"


def test_every_layer_exists() -> None:
    assert set(LEVEL) == {layer for layer, _ in sources()} - {"__init__"}
    assert set(LEVEL) == LIVE | OFFLINE | FOUNDATION | COMMAND_LINES


def loaded_by(code: str, *args: str) -> set[str]:
    """Modules that are loaded after ``code`` ran in a fresh interpreter."""
    ending = "\nimport sys\nprint(*sys.modules, file=sys.__stderr__)"
    found = subprocess.run(
        [sys.executable, "-c", code + ending, *args], capture_output=True, text=True, check=True
    )
    return set(found.stderr.split())


HEAVY: Final = {"pandas", "rich"}
ON_A_TARGET: Final = """
from dmabuf_trace.errors import CommandNotFoundError
from dmabuf_trace.target import run
try:
    run(["--", "./no-such-command"])
except CommandNotFoundError:
    pass
"""
TRACING: Final = {f"dmabuf_trace.{name}" for name in LIVE}


@pytest.mark.parametrize(
    "code",
    [
        "import dmabuf_trace.cli",
        "import dmabuf_trace.recorder",
        "import dmabuf_trace.leftovers",
        "import dmabuf_trace.lifecycle",
        "import dmabuf_trace.render.line, dmabuf_trace.render.jsonl, dmabuf_trace.replay",
        "from dmabuf_trace.outputs import Outputs; Outputs.open(['junit'])",
        "import dmabuf_trace.snapshot, dmabuf_trace.accounting, dmabuf_trace.render.machine",
        "from dmabuf_trace.analysis import registry; registry()",
        "from dmabuf_trace.sight import sights; list(sights({}, '6.1'))",
        "import dmabuf_trace.exports.formats",
    ],
)
def test_neither_pandas_nor_rich_is_loaded_by(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_recording_on_a_target_loads_nothing_that_it_may_lack() -> None:
    loaded = loaded_by(ON_A_TARGET)

    assert "dmabuf_trace.recorder" in loaded
    assert not loaded & (HEAVY | {"typer", "click", "bcc"})


def test_leaking_on_purpose_takes_the_standard_library_alone() -> None:
    loaded = {name.partition(".")[0] for name in loaded_by("import dmabuf_trace.control")}

    assert not loaded & {"numpy", "pandas", "rich", "typer"}


def test_starting_the_command_loads_no_tracing() -> None:
    assert not loaded_by("import dmabuf_trace.cli") & TRACING


def test_reading_a_recording_loads_no_tracing(tmp_path: Path) -> None:
    k = Build()
    k.export()
    code = """
import sys
from dmabuf_trace.cli import app
app(["report", sys.argv[1]], standalone_mode=False)
"""
    modules = loaded_by(code, str(k.write(tmp_path / "x.dbt")))

    assert "pandas" in modules
    assert not modules & TRACING
