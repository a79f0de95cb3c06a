# SPDX-License-Identifier: Apache-2.0
"""Rules of exporters: what they export, and the fences of their buffers."""

from __future__ import annotations

import errno

from dmabuf_trace.rules.facts import Facts, Found, broken


def export_complete(facts: Facts, _: None) -> Found:
    """An export is not refused: the core gives EINVAL for nothing but operations that lack."""
    errors = facts.table("errors")
    refused = errors[(errors["kind"] == "export") & (errors["errno"] == errno.EINVAL)]
    exported = int(facts.table("buffers")["begin"].notna().sum())
    return Found(exported + len(refused), broken((refused, "ts", "export refused")))


def fence_signalled(facts: Facts, _: None) -> Found:
    """A wait for a fence is short; one that was broken off sooner tells nothing."""
    waits = facts.table("waits")
    waits = waits[(waits["kind"] == "fence").astype(bool)]
    late = waits["wait_ns"] >= facts.limits.signal_within
    signalled = waits["error"].isna() & ~waits["timed_out"].astype(bool)
    over = waits["begin"] + facts.limits.signal_within
    return Found(int((late | signalled).sum()), broken((waits[late], over, "fence not signalled")))
