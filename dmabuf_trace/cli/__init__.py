# SPDX-License-Identifier: Apache-2.0
"""The command line: parse, wire, print errors. Each module here registers its commands."""

from __future__ import annotations

import importlib
import sys

if "typer" not in sys.modules and "rich" not in sys.modules:
    # typer up to 0.15 loads rich wherever it is installed: half of a recorder's start for nothing
    sys.modules["rich"] = None  # type: ignore[assignment]
    importlib.import_module("typer")
    del sys.modules["rich"]

from dmabuf_trace.threads import import_numpy

import_numpy()

from dmabuf_trace.cli import (  # noqa: E402 - they import numpy
    check,
    doctor,
    export,
    lines,
    live,
    now,
    offline,
    top,
)
from dmabuf_trace.cli.app import app, main  # noqa: E402

__all__ = ["app", "check", "doctor", "export", "lines", "live", "main", "now", "offline", "top"]
