# SPDX-License-Identifier: Apache-2.0
"""Whatever the events are, in whatever order: every question is answered, and the answers agree."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from numpy.typing import NDArray

from dmabuf_trace import report, story, trace
from dmabuf_trace.analysis import registry
from dmabuf_trace.recording import Writer
from dmabuf_trace.render import machine, terminal
from dmabuf_trace.render.table import write
from tests.build import header
from tests.strategies import any_events


@settings(max_examples=30, deadline=None)
@given(any_events())
def test_every_question_is_answered(events: NDArray[np.void]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.dbt"
        with Writer(path) as writer:
            writer.begin(header())
            writer.write_events(events)
        opened = trace.open(path)

    text = io.StringIO()
    made = report.report(opened)
    write(terminal.report_parts(made), text)
    document = json.loads("".join(machine.report_json(made)))
    for row in document["totals"]:
        assert row["open"] + row["ended"] == len(getattr(opened, row["what"]))
    for name, analysis in registry().items():
        answered = json.loads("".join(machine.result_json(analysis(opened), made.recording)))
        assert answered["analysis"] == name
        assert not answered["certain"], "the recording was cut"
    for inode in opened.buffers["inode"].unique():
        told = story.tell(opened, str(inode))
        write(terminal.story_parts(told, 10), text)
        events_told = json.loads(machine.story_json(told, made.recording))["events"]
        assert len(events_told) == len(told.steps)
    assert text.getvalue().replace("\n", "").isprintable()
