# SPDX-License-Identifier: Apache-2.0
"""A running recorder is asked by another process: answers, garbage, and who goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from dmabuf_trace.capture import Capture
from dmabuf_trace.session import Ending, Follower, Interrupt, follow, signals_waited_for
from dmabuf_trace.steering import MAX_REQUEST, Steering
from tests.test_session import ScriptedCapture, send

GONE = Interrupt(signal.SIGTERM, from_terminal=False)


@dataclass
class Asking:
    """The other process's ends of the pipes, and what the recorder was asked for."""

    requests: int
    answers: int
    steering: Steering
    labels: list[str] = field(default_factory=list)

    def ask(self, text: str | bytes) -> list[str]:
        """Send, let the recorder have its turn, and read what it answered."""
        os.write(self.requests, text if isinstance(text, bytes) else text.encode())
        assert self.steering.wait(0) is None
        return self.answered()

    def answered(self) -> list[str]:
        try:
            return os.read(self.answers, 1 << 16).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def asking() -> Iterator[Asking]:
    theirs, requests = os.pipe()
    answers, ours = os.pipe()
    os.set_blocking(answers, False)

    def mark(label: str) -> int:
        if label == "none":
            raise ValueError("there is none")
        made.labels.append(label)
        return len(made.labels)

    made = Asking(requests, answers, Steering(theirs, ours, {"mark": mark, "stacks": mark}))
    with signals_waited_for():
        yield made
    for fd in {theirs, requests, answers, ours}:
        try:
            os.close(fd)
        except OSError:
            continue  # the test has closed it


def test_each_request_has_one_answer_in_order(asking: Asking) -> None:
    assert asking.ask("mark a b\nmark c\n") == ["ok 1", "ok 2"]
    assert asking.labels == ["a b", "c"]


def test_a_request_may_come_in_pieces(asking: Asking) -> None:
    assert asking.ask("mark hal") == []
    assert asking.ask("f\nmark") == ["ok 1"]
    assert asking.ask(" 2\n") == ["ok 2"]
    assert asking.labels == ["half", "2"]


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        ("", "error no request '', there are: mark, stacks"),
        ("\x1b[2Jboo", "error no request '\\x1b[2Jboo', there are: mark, stacks"),
        ("MARK x", "error no request 'MARK', there are: mark, stacks"),
        ("mark none", "error there is none"),
        ("m" * 9000, "error a request has at most 4096 bytes"),
    ],
)
def test_garbage_has_an_answer_and_ends_nothing(
    asking: Asking, request_line: str, answer: str
) -> None:
    os.write(asking.requests, f"{request_line}\n".encode())
    for _ in range(0, 9001, MAX_REQUEST):
        assert asking.steering.wait(0) is None
    assert asking.answered() == [answer]
    assert asking.ask("mark x\n") == ["ok 1"]


def test_bytes_that_are_no_text_are_a_label_all_the_same(asking: Asking) -> None:
    assert asking.ask(b"mark \xff\n") == ["ok 1"]
    assert asking.labels == ["\\xff"]


def test_the_end_of_the_requests_is_the_end(asking: Asking) -> None:
    os.close(asking.requests)
    assert asking.steering.wait(0) == GONE


def test_it_can_be_asked_to_end(asking: Asking) -> None:
    os.write(asking.requests, b"mark x\nend\nmark y\n")
    assert asking.steering.wait(0) == GONE
    assert asking.answered() == ["ok 1"]


def test_nobody_who_reads_answers_is_the_end(asking: Asking) -> None:
    os.close(asking.answers)
    os.write(asking.requests, b"mark x\n")
    assert asking.steering.wait(0) == GONE


def test_the_recorder_waits_for_no_reader(asking: Asking) -> None:
    ending = None
    while ending is None:  # until the pipe is full
        os.write(asking.requests, b"mark x\n" * 500)
        ending = asking.steering.wait(0)
    assert ending == GONE


def test_a_parent_that_is_gone_is_the_end(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert asking.steering.wait(0) == GONE


def test_a_signal_ends_it_as_ever(asking: Asking) -> None:
    send(signal.SIGINT)
    assert asking.steering.wait(0) == Interrupt(signal.SIGINT, from_terminal=False)


def test_following_ends_when_the_requests_do(asking: Asking) -> None:
    os.write(asking.requests, b"mark x\n")
    os.close(asking.requests)
    follower = Follower(cast("Capture", ScriptedCapture()), lambda _: None)
    follower.wait = asking.steering.wait

    assert follow(follower, (), None) == Ending("SIGTERM")
    assert asking.answered() == ["ok 1"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--steered", "--", "true"], "--steered with a command"),
        (["--cycles", "2"], "--cycles without a command"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments: list[str], line: str) -> None:
    command = [sys.executable, "-m", "dmabuf_trace", "record", "-o", "/nonexistent/x", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"dmabuf-trace: {line}\n")
    assert "Traceback" not in done.stderr
