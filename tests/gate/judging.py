# SPDX-License-Identifier: Apache-2.0
"""On this side of a guest: what ``check`` says, in every format, which all say the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import junitparser
import pytest
from tap.parser import Parser
from typer.testing import CliRunner

from dmabuf_trace.cli.app import app
from dmabuf_trace.outputs import FORMATS, SUMMARY_VARIABLE
from dmabuf_trace.render.words import COMMAND_CASE
from tests.test_ci_formats import in_github, in_junit, in_ktap, in_sarif
from tests.vm import run_guest

NO_SUMMARY: Final = {SUMMARY_VARIABLE: ""}
"""Where GitHub runs these tests, they add nothing to its summary."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict: as JSON, and the names of failed cases, on which all formats agree."""

    status: int
    document: Row

    @classmethod
    def of(cls, status: int, texts: Mapping[str, str]) -> Self:
        """Of an exit status and the output by format; fails where they do not agree."""
        found = cls(status, json.loads(texts["json"]))
        assert found.document["status"] == status
        counts = Counter(case["outcome"] for case in found.document["cases"])
        command = found.document["command"]
        if command:
            counts["failed" if command["status"] else "passed"] += 1
        assert in_junit(texts["junit"]) == counts
        assert in_ktap(texts["ktap"]) == counts
        levels, run = in_sarif(texts["sarif"])
        findings = [each for case in found.document["cases"] for each in case["findings"]]
        certain = Counter("error" if each["certain"] else "warning" for each in findings)
        assert levels == certain
        assert run["invocations"][0]["exitCode"] == status
        assert f"(exit status {status})" in texts["text"].splitlines()[0]
        failed = {*found.failed, *([COMMAND_CASE] if command and command["status"] else [])}
        assert _failed_in_junit(texts["junit"]) == failed
        assert _failed_in_ktap(texts["ktap"]) == failed
        annotated = {
            told["title"] for level, told, _ in in_github(texts["github"]) if level == "error"
        }
        assert annotated == failed
        errors = {row["ruleId"] for row in run["results"] if row["level"] == "error"}
        assert errors == set(found.failed)
        assert {name for name in failed if f"\n{name}: " in texts["text"]} == set(found.failed)
        return found

    @property
    def failed(self) -> list[str]:
        """Cases that failed."""
        return self.of_outcome("failed")

    def of_outcome(self, outcome: str) -> list[str]:
        """Names of cases."""
        return [case["name"] for case in self.document["cases"] if case["outcome"] == outcome]

    @property
    def findings(self) -> list[Row]:
        """Those that are certain."""
        every = (each for case in self.document["cases"] for each in case["findings"])
        return [each for each in every if each["certain"]]


def _failed_in_junit(text: str) -> set[str]:
    (suite,) = junitparser.JUnitXml.fromstring(text.encode())
    failures = (junitparser.Failure,)
    return {test.name for test in suite if any(isinstance(each, failures) for each in test.result)}


def _failed_in_ktap(text: str) -> set[str]:
    lines = (line for line in Parser().parse_text(text) if line.category == "test")
    return {line.description for line in lines if not line.ok and not line.directive.text}


def read(directory: Path, name: str, status: int) -> Judged:
    """What a run elsewhere has left: ``NAME.FORMAT`` for each."""
    texts = {each: (directory / f"{name}.{each}").read_text() for each in FORMATS}
    return Judged.of(status, texts)


def judge(path: Path, out: Path, *options: str) -> Judged:
    """Judge a recording here, by the command line."""
    files = {each: out / each for each in FORMATS}
    to = (f"--to={each}={file}" for each, file in files.items())
    told = CliRunner().invoke(app, ["check", str(path), *options, *to, "--force"], env=NO_SUMMARY)
    assert isinstance(told.exception, SystemExit | None), told.output
    return Judged.of(told.exit_code, {each: file.read_text() for each, file in files.items()})


def assert_clean(judged: Judged) -> None:
    """It passes, and nothing is called anything."""
    assert judged.status == 0
    assert judged.failed == judged.of_outcome("inconclusive") == []
    assert judged.findings == []


def in_guest(kernel: str, what: str, paths: pytest.TempPathFactory) -> Path:
    """What a part of tests.gate leaves."""
    path = paths.mktemp(f"gate-{what}")
    command = ["python3", "-m", "tests.gate", what, "/out"]
    done = run_guest(kernel, command, timeout=1800, shares={"/out": path}, module=True)
    assert done.returncode == 0, done.stderr
    return path
