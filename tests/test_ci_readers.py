# SPDX-License-Identifier: Apache-2.0
"""What CI reads, by what the kernel and Jenkins read it with: fetched, so the lab is needed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import xmlschema
from hypothesis import HealthCheck, given, settings

from dmabuf_trace.findings import Verdict
from dmabuf_trace.render.junit import verdict_junit
from dmabuf_trace.render.ktap import verdict_ktap
from tests.jenkins import jenkins_schemas
from tests.verdicts import EVERYTHING, HOSTILE, any_verdict, hostile, verdict
from tests.vm.source import kernel_source

pytestmark = pytest.mark.guest  # needs what the lab fetches, though nothing boots

slow = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def kunit() -> Path:
    """The folder of the kernel's own reader of KTAP."""
    return kernel_source() / "tools/testing/kunit"


@pytest.fixture(scope="module")
def parser(kunit: Path) -> Any:
    """Its module."""
    sys.path.insert(0, str(kunit))
    try:
        return importlib.import_module("kunit_parser")
    finally:
        sys.path.remove(str(kunit))


def counted(parser: Any, found: Verdict) -> Counter[str]:
    """What it counts, without any error of its own."""
    counts = parser.parse_run_tests(verdict_ktap(found).splitlines()).counts
    assert counts.errors == counts.crashed == 0
    return +Counter(passed=counts.passed, failed=counts.failed, skipped=counts.skipped)


def expected(found: Verdict) -> Counter[str]:
    """Inconclusive is no way to pass."""
    words = {"passed": "passed", "failed": "failed", "inconclusive": "failed", "off": "skipped"}
    counts = Counter(words[case.outcome] for case in found.cases)
    if found.command:
        counts["failed" if found.command.status else "passed"] += 1
    return counts


def test_kunit_reads_ktap(kunit: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.ktap"
    file.write_text(verdict_ktap(EVERYTHING))
    command = [sys.executable, str(kunit / "kunit.py"), "parse", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "Testing complete. Ran 6 tests: passed: 2, failed: 3, skipped: 1" in done.stdout
    assert done.returncode == 1
    for line in ("[PASSED] leaks.kernel", "[FAILED] leaks.fd", "[SKIPPED] growth.buffers"):
        assert line in done.stdout


@pytest.mark.parametrize("name", HOSTILE)
def test_kunit_reads_any_name(parser: Any, name: str) -> None:
    assert counted(parser, hostile(name)) == expected(hostile(name))


@slow
@given(found=any_verdict().filter(lambda found: found.cases or found.command))
def test_kunit_reads_whatever_there_is(parser: Any, found: Verdict) -> None:
    assert counted(parser, found) == expected(found)


def test_kunit_takes_nothing_for_no_test(parser: Any) -> None:
    """It calls that an error."""
    read = parser.parse_run_tests(verdict_ktap(verdict()).splitlines())

    assert (read.status.name, read.counts.total()) == ("NO_TESTS", 0)


@pytest.fixture(scope="module")
def schemas() -> list[xmlschema.XMLSchema]:
    """Jenkins's own, at two times."""
    found = list(map(xmlschema.XMLSchema, jenkins_schemas()))
    assert len(found) == 2
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_jenkins_takes_any_name(schemas: list[xmlschema.XMLSchema], name: str) -> None:
    for schema in schemas:
        schema.validate(verdict_junit(hostile(name)))


def test_jenkins_takes_all_outcomes(schemas: list[xmlschema.XMLSchema]) -> None:
    for schema in schemas:
        schema.validate(verdict_junit(EVERYTHING))
        with pytest.raises(xmlschema.XMLSchemaException):
            schema.validate(verdict_junit(EVERYTHING).replace("<failure", "<fault"))


@slow
@given(found=any_verdict())
def test_jenkins_takes_whatever_there_is(
    schemas: list[xmlschema.XMLSchema], found: Verdict
) -> None:
    for schema in schemas:
        schema.validate(verdict_junit(found))
