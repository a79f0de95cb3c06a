# SPDX-License-Identifier: Apache-2.0
"""Which kernels a run of the tests covers."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.vm import pins
from tests.vm.kernels import KERNELS, Kernel

LONGEST: Final = (
    "test_pytest_guest.py",
    "test_weather.py",
    "test_exact.py",
    "test_gate_runs.py",
    "test_modes.py",
)
"""Files whose guests take longest."""

ANSWERS: Final = pytest.StashKey[dict[str, pins.Answers]]()
"""What doctor said in this run, by kernel."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-kernels",
        action="store_true",
        help="every test on every kernel, and the README's table of kernels from what they said",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ANSWERS] = {}


def kernel_of(item: pytest.Item) -> Kernel | None:
    """The kernel that a parametrised test runs on, given by its row or by its name."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    for value in values:
        if isinstance(value, Kernel):
            return value
        if isinstance(value, str) and value in KERNELS:
            return KERNELS[value]
    return None


def _is_wanted(item: pytest.Item) -> bool:
    """Whether each run has it, not only one with ``--all-kernels``."""
    kernel = kernel_of(item)
    if kernel is None or item.get_closest_marker("main_path"):
        return True
    named = item.get_closest_marker("every_run_on")
    return kernel.name in named.args if named else kernel.every_run


def _turn(item: pytest.Item) -> int:
    if item.get_closest_marker("guest") is None:
        return len(LONGEST) + 1
    name = item.path.name
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--all-kernels`` some kernels are held to their main paths only.

    Guest tests go first, the longest ahead of all: where files are spread over processes, the quick
    ones fill what is left.
    """
    items.sort(key=_turn)
    if config.getoption("all_kernels"):
        return
    left: list[pytest.Item] = []
    out: list[pytest.Item] = []
    for item in items:
        (left if _is_wanted(item) else out).append(item)
    items[:] = left
    if out:
        config.hook.pytest_deselected(items=out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what doctor said in another process of this run."""
    node.config.stash[ANSWERS].update(getattr(node, "workeroutput", {}).get("answers", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run on all kernels writes the README's table of them."""
    said = session.config.stash[ANSWERS]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["answers"] = said
        return
    if session.config.getoption("all_kernels") and said.keys() == KERNELS.keys():
        pins.write_readme(said)
