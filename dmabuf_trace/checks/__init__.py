# SPDX-License-Identifier: Apache-2.0
"""One section of the policy per file: what it limits, which analysis it asks, what is a finding.

A file here that defines ``CHECK`` is a part of every check: nothing else names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from dmabuf_trace.checks.interface import Check, Draft, Judged

__all__ = ["Check", "Draft", "Judged", "registry"]


@cache
def registry() -> tuple[Check, ...]:
    """All checks, in the order in which people see them."""
    modules = (
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    )
    found = [module.CHECK for module in modules if hasattr(module, "CHECK")]
    return tuple(sorted(found, key=lambda check: check.rank))
