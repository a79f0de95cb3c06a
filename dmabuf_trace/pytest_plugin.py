# SPDX-License-Identifier: Apache-2.0
"""pytest fails tests that leave dma-bufs behind: ``@pytest.mark.limit_dmabuf_leaks()``.

The first test that asks for it starts a recorder beside this process, which sees what it and its
children do until the session ends. A test is judged once its own fixtures are torn down: of what
was exported since its setup began, but for what fixtures of a wider scope made in theirs, no more
may be there than its marker says. A test that fails by itself is not judged. Its outcome is counted
when it is known, so once: *failed* where it leaks, *error* where nothing can be told.

With pytest-xdist each worker has a recorder of its own. A session that judges nothing loads pytest
and the standard library only.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import pytest

from dmabuf_trace.errors import InputError, TraceError
from dmabuf_trace.limits import MARKER, Limit
from dmabuf_trace.render.text import printable
from dmabuf_trace.units import bytes_text, count_text

if TYPE_CHECKING:
    from dmabuf_trace.leftovers import Leftovers, Row, Span
    from dmabuf_trace.trace import Trace

FIXTURE: Final = "dmabuf_trace"
HELP: Final = (
    f"{MARKER}(buffers=0, bytes=None, shapes=(), exporter=''): the test may leave at most so many "
    "dma-bufs behind, of at most so many bytes together (64K, 8M); only those of these shapes (fd, "
    "mapping, attachment, in-flight, kernel) and of this exporter count."
)
RECORDED: Final = ("--events", "devices,cpu")
OPTIONS: Final = {
    "dmabuf_leaks": (False, "Judge every test as if it had the marker, without arguments."),
    "dmabuf_skip": (False, "Skip tests instead of failing them where nothing can be recorded."),
    "dmabuf_recording": ("", "Keep the recording; of several workers, with their names added."),
    "dmabuf_record_options": ("", "More options of dmabuf-trace record, as --events all."),
    "hide_dmabuf_summary": (False, "No section about dma-bufs at the end."),
}
"""On the command line and in the configuration file: what they are without, and what they do."""

_STATUS: Final = {
    "waits": ("", "", ""),
    "passed": ("passed", ".", "PASSED"),
    "xpassed": ("xpassed", "X", "XPASS"),
    "leaked": ("failed", "F", "FAILED"),
}
"""How a report counts and shows, by what :func:`pytest_runtest_makereport` has put into it."""


class DmabufLeak(pytest.fail.Exception):  # type: ignore[name-defined,misc]
    """A test left more behind than it may."""


class DmabufTrace:
    """The fixture ``dmabuf_trace``: what this test, and what it started, does with dma-bufs."""

    def __init__(self, watched: Leftovers, span: Span, label: str) -> None:
        self._watched = watched
        self._span = span
        self._label = label

    @property
    def path(self) -> Path:
        """The recording of the whole session, which is still being written."""
        return self._watched.path

    def leaks(self) -> list[Row]:
        """What this test has left so far: a dict per buffer, as ``leaks --json`` has them.

        Asks for up to a second for what is still there to go.
        """
        return self._watched.left(self._span, self._label, Limit()).rows

    def window(self) -> Trace:
        """This test so far, as :func:`dmabuf_trace.open` gives a whole recording."""
        return self._watched.window(self._span, self._label)


@dataclass(slots=True)
class Watch:
    """Of a test under way. ``outcome`` is passed or xpassed as soon as it is, and to be judged."""

    span: Span
    limit: Limit | None
    outcome: str = ""


WATCH: Final = pytest.StashKey[Watch]()


class Session:
    """The judge of one pytest process; ``told`` is what its summary is made of."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.current: Watch | None = None
        self.told: dict[str, Any] = {}
        self.others: list[dict[str, Any] | None] = []
        self._watched: Leftovers | None = None
        self._failure = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def option(self, name: str) -> Any:
        """The command line's, else the configuration file's."""
        return self.config.getoption(name) or self.config.getini(name)

    def begin(self, item: pytest.Item) -> None:
        """A test is about to be set up."""
        limit = self._limit_of(item)
        if limit or FIXTURE in getattr(item, "fixturenames", ()):
            self.look_at(item, limit)

    def look_at(self, item: pytest.Item, limit: Limit | None) -> Watch:
        """From now on."""
        self.current = item.stash[WATCH] = Watch(self.watched().begin(), limit)
        return self.current

    def end(self, item: pytest.Item) -> None:
        """A test is over, its fixtures are torn down."""
        watch, self.current = self.current, None
        if watch and watch.limit and watch.outcome:
            self._judge(item, watch, watch.limit)

    def _limit_of(self, item: pytest.Item) -> Limit | None:
        marker = item.get_closest_marker(MARKER)
        if marker is None:
            return Limit() if self.option("dmabuf_leaks") else None
        try:
            return Limit.parse(marker.args, marker.kwargs)
        except InputError as error:
            raise pytest.fail.Exception(_line(error), pytrace=False) from None

    def watched(self) -> Leftovers:
        """What the recorder saw; it is started if there is none."""
        if self._watched is None and not self._failure:
            from dmabuf_trace.leftovers import Leftovers

            try:
                options = shlex.split(self.option("dmabuf_record_options"))
                self._watched = Leftovers(self._path(), [*RECORDED, *options])
            except TraceError as error:
                self._failure = _line(error)
        if self._watched is None:
            self._unable()
        return self._watched

    def _unable(self) -> NoReturn:
        why = f"dma-bufs can't be recorded: {self._failure}"
        self.told["failure"] = self._failure
        if self.option("dmabuf_skip"):
            pytest.skip(why)
        pytest.fail(why, pytrace=False)

    def _path(self) -> Path:
        wanted = self.option("dmabuf_recording")
        if not wanted:
            self._folder = tempfile.TemporaryDirectory(prefix="dmabuf-trace-")
            return Path(self._folder.name) / "tests.dbt"
        path: Path = self.config.invocation_params.dir / wanted
        worker = getattr(self.config, "workerinput", {}).get("workerid")
        return path.with_stem(f"{path.stem}-{worker}") if worker else path

    def _judge(self, item: pytest.Item, watch: Watch, limit: Limit) -> None:
        try:
            left = self.watched().left(watch.span, item.nodeid, limit)
        except TraceError as error:
            self._failure = _line(error)
            self._count(item, "inconclusive")
            pytest.fail(f"inconclusive: {self._failure}", pytrace=False)
        if left.lost:
            self._count(item, "inconclusive")
            lost = count_text(left.lost, "event")
            text = f"inconclusive: {lost} lost, so nothing can be told about leaks"
            pytest.fail(f"{text}\n{left.text}".strip(), pytrace=False)
        count, size = len(left.sizes), sum(left.sizes)
        self.told["left"] = self.told.get("left", 0) + count
        self.told["left_bytes"] = self.told.get("left_bytes", 0) + size
        if limit.allows(count, size):
            self._count(item, "clean")
            return
        self._count(item, "leaked")
        many = count_text(count, "dma-buf")
        raise DmabufLeak(
            f"{many} of {bytes_text(size)} left behind, allowed: {limit}\n\n{left.text}",
            pytrace=False,
        )

    def _count(self, item: pytest.Item, verdict: str) -> None:
        self.told[verdict] = self.told.get(verdict, 0) + 1
        item.user_properties.append(("dmabuf_leaks", verdict))

    def close(self) -> None:
        """End the recording."""
        watched, self._watched = self._watched, None
        if watched is None:
            return
        try:
            watched.close()
        except TraceError as error:
            self.told["failure"] = _line(error)
        self.told |= {"exports": watched.exports, "lost": watched.lost}
        if self._folder:
            self._folder.cleanup()
        else:
            self.told["recording"] = str(watched.path)


def _line(error: TraceError) -> str:
    text = f"{error} ({error.hint})" if error.hint else str(error)
    return printable(text)


SESSION: Final = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare :data:`OPTIONS`."""
    group = parser.getgroup("dmabuf-trace", "dma-bufs that tests leave behind")
    for name, (default, text) in OPTIONS.items():
        is_flag = isinstance(default, bool)
        how: dict[str, Any] = {"action": "store_true"} if is_flag else {"metavar": "TEXT"}
        group.addoption(f"--{name.replace('_', '-')}", help=text, **how)
        kind: Literal["bool", "string"] = "bool" if is_flag else "string"
        parser.addini(name, text, kind, default)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker; nothing is recorded yet."""
    config.addinivalue_line("markers", HELP)
    config.stash[SESSION] = Session(config)


@pytest.fixture(name=FIXTURE)
def _dmabuf_trace(request: pytest.FixtureRequest) -> DmabufTrace:
    """What this test does with dma-bufs: .leaks(), .window(), .path"""
    session = request.config.stash[SESSION]
    # None: it was asked for by its name only, in the midst of the test
    watch = session.current or session.look_at(request.node, None)
    return DmabufTrace(session.watched(), watch.span, request.node.nodeid)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin to look: after marks that skip a test, ahead of its fixtures."""
    item.config.stash[SESSION].begin(item)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """What a fixture makes that outlives the test is not the test's."""
    since = time.monotonic_ns()
    try:
        return (yield)
    finally:
        watch = request.config.stash[SESSION].current
        if watch and fixturedef.scope != "function":
            watch.span.apart.append((since, time.monotonic_ns()))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Judge what is left after it; one whose fixtures fail has failed already."""
    session = item.config.stash[SESSION]
    try:
        yield
    except BaseException:
        session.current = None
        raise
    session.end(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hold back that a test passed until it is judged; then it counts, once."""
    report = yield
    watch = item.stash.get(WATCH, None)
    if call.when == "setup" or not watch or not watch.limit:
        return report
    if call.when == "call" and report.passed:
        watch.outcome = "xpassed" if hasattr(report, "wasxfail") else "passed"
        vars(report)[FIXTURE] = "waits"
    elif report.passed and watch.outcome:
        vars(report)[FIXTURE] = watch.outcome
    elif report.failed and call.excinfo and isinstance(call.excinfo.value, DmabufLeak):
        vars(report)[FIXTURE] = "leaked"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """See :data:`_STATUS`."""
    return _STATUS.get(getattr(report, FIXTURE, ""))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the recording; a worker tells the controller of it."""
    mine = session.config.stash[SESSION]
    mine.close()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[FIXTURE] = mine.told


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the recording, whatever came between."""
    config.stash[SESSION].close()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker told; None: it crashed."""
    told = getattr(node, "workeroutput", {}).get(FIXTURE)
    node.config.stash[SESSION].others.append(told)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What was judged, and how well it could be seen."""
    session = config.stash[SESSION]
    told = [part for part in (session.told, *session.others) if part]
    if not told or session.option("hide_dmabuf_summary"):
        return
    terminalreporter.section("dma-bufs")
    for line in summary(told, session.others.count(None)):
        terminalreporter.write_line(line)


def summary(told: list[dict[str, Any]], crashed: int) -> Generator[str, None, None]:
    """Lines about what the processes of a session tell."""

    def total(key: str) -> int:
        return sum(part.get(key, 0) for part in told)

    verdicts = {name: total(name) for name in ("clean", "leaked", "inconclusive")}
    parts = ", ".join(f"{count} {name}" for name, count in verdicts.items() if count)
    judged = count_text(sum(verdicts.values()), "test")
    yield f"{judged} judged" + (f": {parts}" if parts else "")
    left, size = total("left"), bytes_text(total("left_bytes"))
    lost = count_text(total("lost"), "event")
    yield f"{count_text(total('exports'), 'buffer')} exported, {left} left ({size}), {lost} lost"
    for failure in dict.fromkeys(part["failure"] for part in told if "failure" in part):
        yield f"not recorded: {failure}"
    for path in (part["recording"] for part in told if "recording" in part):
        yield f"recording: {printable(path)}"
    if crashed:
        yield f"{count_text(crashed, 'worker')} crashed: what it saw is missing"
