# SPDX-License-Identifier: Apache-2.0
"""The command line: parse, wire, print errors. Each module here registers its commands."""

from dmabuf_trace.cli import live, offline
from dmabuf_trace.cli.app import app, main

__all__ = ["app", "live", "main", "offline"]
