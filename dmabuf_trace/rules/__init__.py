# SPDX-License-Identifier: Apache-2.0
"""The rules of the dma-buf contract, and how the tables of a trace show each kept or broken.

What began before the trace is no case: its other half was not seen. What is under way at the end is
none either, as it may still be put right.
"""

from __future__ import annotations

from dmabuf_trace.rules.book import RULES, Rule
from dmabuf_trace.rules.facts import Facts, Found, Limits, Reused
from dmabuf_trace.rules.held import by_design

__all__ = ["RULES", "Facts", "Found", "Limits", "Reused", "Rule", "by_design"]
