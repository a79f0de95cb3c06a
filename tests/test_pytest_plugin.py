# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin where no kernel is asked: what is loaded, started, said and counted.

(That it judges rightly is in test_pytest_guest.)
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dmabuf_trace.remote import RecorderError, RemoteRecorder
from tests.build import KIB, MS, Build

pytest_plugins = ["pytester"]

NOT_RECORDED = "--dmabuf-record-options=--events nonsense"
"""The recorder refuses that before it looks at the kernel."""


@pytest.fixture
def marked(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.limit_dmabuf_leaks()
        def test_marked():
            pass

        @pytest.mark.limit_dmabuf_leaks()
        @pytest.mark.skip(reason="never run")
        def test_skipped():
            pass

        def test_other():
            pass

        def test_asks(request):
            request.getfixturevalue("dmabuf_trace")
        """
    )
    return pytester


def test_a_session_that_judges_nothing_loads_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            heavy = {"numpy", "pandas", "rich", "typer"}
            assert not heavy & {name.partition(".")[0] for name in sys.modules}
            assert "dmabuf_trace.pytest_plugin" in sys.modules
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest", "--strict-markers")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*dma-buf*")


def test_the_marker_and_the_options_are_described(pytester: pytest.Pytester) -> None:
    markers = pytester.runpytest("--markers")
    markers.stdout.fnmatch_lines(["@pytest.mark.limit_dmabuf_leaks(buffers=0, bytes=None*"])
    shown = pytester.runpytest("--help")
    for option in ("leaks", "skip", "recording", "record-options"):
        shown.stdout.fnmatch_lines([f"*--dmabuf-{option}*"])
    shown.stdout.fnmatch_lines(["*dmabuf_leaks (bool):*"])


def test_without_a_recorder_what_asks_for_it_errs(marked: pytest.Pytester) -> None:
    result = marked.runpytest(NOT_RECORDED)

    result.assert_outcomes(errors=1, skipped=1, passed=1, failed=1)
    why = "dma-bufs can't be recorded: no event group 'nonsense' (there are: buffers,*"
    result.stdout.fnmatch_lines([why, "*= dma-bufs =*", "0 tests judged", "not recorded: *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_or_is_skipped_where_that_is_wanted(marked: pytest.Pytester) -> None:
    marked.makeini("[pytest]\ndmabuf_skip = true\n")
    result = marked.runpytest(NOT_RECORDED, "-rs")

    result.assert_outcomes(skipped=3, passed=1)
    result.stdout.fnmatch_lines(["SKIPPED * dma-bufs can't be recorded: no event group*"])


def test_every_test_is_judged_where_that_is_wanted(marked: pytest.Pytester) -> None:
    result = marked.runpytest(NOT_RECORDED, "--dmabuf-leaks", "--hide-dmabuf-summary")

    result.assert_outcomes(errors=3, skipped=1)
    result.stdout.no_fnmatch_line("*= dma-bufs =*")


def test_a_wrong_marker_errs_and_starts_no_recorder(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.limit_dmabuf_leaks(bufers=1)
        def test_it():
            pass
        """
    )
    result = pytester.runpytest(NOT_RECORDED)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["limit_dmabuf_leaks: no argument bufers (try: buffers,*"])
    result.stdout.no_fnmatch_line("*can't be recorded*")


def test_workers_start_recorders_and_the_controller_none(marked: pytest.Pytester) -> None:
    marked.makeconftest(
        """
        import os
        from dmabuf_trace import leftovers

        class Told(leftovers.Leftovers):
            def __init__(self, path, options):
                with open("started", "a") as file:
                    file.write(os.environ.get("PYTEST_XDIST_WORKER", "controller") + "\\n")
                super().__init__(path, options)

        leftovers.Leftovers = Told
        """
    )
    result = marked.runpytest_subprocess("-n", "2", NOT_RECORDED, "--dmabuf-leaks")

    result.assert_outcomes(errors=3, skipped=1)
    started = (marked.path / "started").read_text().split()
    assert sorted(started) == ["gw0", "gw1"]
    result.stdout.fnmatch_lines(["*= dma-bufs =*", "0 tests judged", "not recorded: *"])


STANDS_IN = """
import dmabuf_trace
from dmabuf_trace import leftovers
from dmabuf_trace.analysis import registry
from dmabuf_trace.leftovers import Left, Span

class StandIn:
    exports, lost = 7, 3

    def __init__(self, path, options):
        self.path = path

    def begin(self):
        return Span(0, 0)

    def left(self, span, label, limit):
        answer = registry()["leaks"](dmabuf_trace.open({recording!r})).answer
        table = next(table for table in answer.tables if table.name == "leaks")
        return Left(1, 3 * ("lost" in label), table if "leaks" in label else None)

    def close(self):
        pass

leftovers.Leftovers = StandIn
"""
"""A recorder whose recording is known: what a test leaves goes by its name."""


@pytest.fixture
def judged(pytester: pytest.Pytester, tmp_path: Path) -> pytest.Pytester:
    k = Build()
    k.export(64 * KIB, "sys\x1b[2Jtem", fd=3, stack=("dma_buf_export+0x1", "system_heap+0x2"))
    k.wait(MS)
    recording = k.write(tmp_path / "known.dbt")
    pytester.makeconftest(STANDS_IN.format(recording=str(recording)))
    pytester.makepyfile(
        test_it="""
        import pytest

        pytestmark = pytest.mark.limit_dmabuf_leaks()

        @pytest.fixture
        def broken():
            yield
            raise RuntimeError("of the fixture")

        def test_clean(): pass
        def test_leaks(): pass
        def test_lost_and_leaks(): pass
        def test_fails_and_leaks(): raise AssertionError("of its own")
        def test_broken_and_leaks(broken): pass
        def test_skips_and_leaks(): pytest.skip("in its midst")
        @pytest.mark.skip(reason="ahead")
        def test_skipped_and_leaks(): pass
        @pytest.mark.xfail
        def test_xfail_and_leaks(): pass
        @pytest.mark.xfail
        def test_xpass(): pass
        @pytest.mark.limit_dmabuf_leaks(buffers=1)
        def test_allowed_and_leaks(): pass
        """
    )
    return pytester


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_each_test_counts_once(judged: pytest.Pytester, workers: tuple[str, ...]) -> None:
    result = judged.runpytest_subprocess(*workers)

    outcomes = {"passed": 2, "failed": 2, "errors": 2, "skipped": 2, "xfailed": 1, "xpassed": 1}
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines_random(
        [
            "1 dma-buf of 64 KiB left behind, allowed: 0 buffers",
            "*41  fd*64 KiB*sys\\x1b[[]2Jtem*app-100 fd 3*",
            "*exported at: dma_buf_export+0x1 < system_heap+0x2",
            "inconclusive: 3 events lost, so nothing can be told about leaks",
            "6 tests judged: 3 clean, 2 leaked, 1 inconclusive",
        ]
    )


def test_what_people_see_comes_once_it_is_known(judged: pytest.Pytester) -> None:
    result = judged.runpytest_subprocess("-v")

    result.stdout.fnmatch_lines(
        [
            "*::test_clean PASSED *",
            "*::test_leaks FAILED *",
            "*::test_lost_and_leaks ERROR *",
            "*::test_allowed_and_leaks PASSED *",
        ]
    )
    result.stdout.no_fnmatch_line("*test_leaks PASSED*")


def test_junit_tells_the_verdicts(judged: pytest.Pytester) -> None:
    judged.runpytest_subprocess("--junitxml=x.xml")

    found = {}
    for case in ElementTree.parse(judged.path / "x.xml").iter("testcase"):  # noqa: S314 - our own
        wrong = [child.tag for child in case if child.tag in ("error", "failure")]
        told = [each.get("value") for each in case.iter("property")]
        found[case.get("name", "").removeprefix("test_")] = (wrong, told)
    assert found == {
        "clean": ([], ["clean"]),
        "leaks": (["error"], ["leaked"]),
        "lost_and_leaks": (["error"], ["inconclusive"]),
        "fails_and_leaks": (["failure"], []),
        "broken_and_leaks": (["error"], []),
        "skips_and_leaks": ([], []),
        "skipped_and_leaks": ([], []),
        "xfail_and_leaks": ([], ["leaked"]),
        "xpass": ([], ["clean"]),
        "allowed_and_leaks": ([], ["clean"]),
    }


def test_a_recorder_that_refuses_says_why(tmp_path: Path) -> None:
    with pytest.raises(RecorderError, match="no loader 'none'") as caught:
        RemoteRecorder(tmp_path / "x.dbt", ["--loader", "none"])
    assert caught.value.hint == "there are: auto, core, bcc"


def test_a_recorder_that_can_not_run_says_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho last words >&2\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    before = len(list(Path("/proc/self/fd").iterdir()))

    with pytest.raises(RecorderError, match="ended with signal 9") as caught:
        RemoteRecorder(tmp_path / "x.dbt", [])

    assert caught.value.hint == "last words"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text(
        '#!/bin/sh\nn=0\nwhile read verb rest; do n=$((n + 1)); [ "$verb" = end ] && exit 0\n'
        'case $rest in odd) echo "error odd";; *) echo "ok $n";; esac; done\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    recorder = RemoteRecorder(tmp_path / "x.dbt", [])
    poll = recorder._readable

    class Interrupted:
        def poll(self, _: float) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(recorder, "_readable", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        recorder.mark("two")
    monkeypatch.setattr(recorder, "_readable", poll)

    assert recorder.mark("three\nlines") == 3
    with pytest.raises(RecorderError, match="refuses 'mark odd': odd"):
        recorder.mark("odd")
    recorder.close()
