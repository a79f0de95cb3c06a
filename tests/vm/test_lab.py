# SPDX-License-Identifier: Apache-2.0
"""The lab without guests: the cache, the script, the streams, the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm import cache, kmod
from tests.vm.__main__ import main
from tests.vm.errors import EXIT_LAB, GuestError, LabError
from tests.vm.kernels import FEATURES, KERNELS, find_kernel
from tests.vm.progress import logged
from tests.vm.root import Root
from tests.vm.script import Share, guest_script
from tests.vm.streams import Reader


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("DMABUF_TRACE_CACHE", str(directory))
    return directory


# --- the cache


def test_entry_is_built_once_however_many_ask_at_once(private_cache: Path) -> None:
    builds: list[Path] = []
    meet = threading.Barrier(4)

    def build(path: Path) -> None:
        builds.append(path)
        (path / "made").write_text("whole")

    def ask(_: int) -> Path:
        meet.wait()
        return cache.built("thing", "0" * 12, build)

    with ThreadPoolExecutor(4) as pool:
        entries = set(pool.map(ask, range(4)))
    assert entries == {private_cache / f"thing-{'0' * 12}"}
    assert len(builds) == 1
    assert (entries.pop() / "made").read_text() == "whole"


def test_failed_build_leaves_no_entry_and_the_next_starts_clean(private_cache: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").touch()
        raise LabError("no")

    seen: list[list[Path]] = []
    with pytest.raises(LabError):
        cache.built("thing", "0" * 12, fail)
    assert not (private_cache / f"thing-{'0' * 12}").exists()
    cache.built("thing", "0" * 12, lambda path: seen.append(list(path.iterdir())))
    assert seen == [[]]


def test_build_that_is_killed_is_not_taken_for_a_whole_one(private_cache: Path) -> None:
    script = """
import os, signal
from tests.vm.cache import built
def build(path):
    (path / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
built("thing", "0" * 12, build)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode < 0
    assert (private_cache / f"thing-{'0' * 12}.partial" / "half").exists()
    entry = cache.built("thing", "0" * 12, lambda path: (path / "made").touch())
    assert [file.name for file in entry.iterdir()] == ["made"]


def test_only_superseded_entries_that_no_one_uses_are_deleted() -> None:
    def make(key: str, age: float) -> Path:
        entry = cache.built("thing", key * 12, lambda path: (path / "made").touch())
        then = entry.stat().st_mtime - age
        os.utime(entry, (then, then))
        return entry

    unused = make("0", cache.KEEP_UNUSED_SECONDS + 60)
    in_use = make("1", 60)
    current = make("2", 0)
    assert [entry.exists() for entry in (unused, in_use, current)] == [False, True, True]


def test_digest_covers_names_and_contents_but_not_what_a_build_leaves(tmp_path: Path) -> None:
    assert cache.digest(["ab", "c"]) != cache.digest(["a", "bc"])
    source = tmp_path / "package" / "a.py"
    source.parent.mkdir()
    source.write_text("1")
    first = cache.digest_files(tmp_path, ["package"])
    (tmp_path / "package" / "__pycache__").mkdir()
    (tmp_path / "package" / "__pycache__" / "a.pyc").write_text("left")
    (tmp_path / "package" / "a.o").write_text("left")
    assert cache.digest_files(tmp_path, ["package"]) == first
    source.rename(source.with_name("b.py"))
    assert cache.digest_files(tmp_path, ["package"]) != first


# --- running commands


def test_failed_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(LabError, match=r"status 3; end of .*\nlast words$"):
        logged(["sh", "-c", "echo last words >&2; exit 3"], log)
    with pytest.raises(LabError, match="no-such-command is not installed"):
        logged(["no-such-command"], log)


def test_only_warnings_about_the_sources_count() -> None:
    output = (
        "warning: the compiler differs from the one used to build the kernel\n"
        "/build/a.c:3:5: warning: unused variable 'x'\n"
        "WARNING: modpost: missing MODULE_DESCRIPTION() in /build/a.o\n"
        "Skipping BTF generation for /build/a.ko due to unavailability of vmlinux\n"
    )
    assert len(kmod.WARNING.findall(output)) == 2


def test_module_is_made_of_its_sources_only(tmp_path: Path) -> None:
    for name in ("a.c", "a.h", "Kbuild", "a.o", "a.mod.c", "a.ko", "client.py", "README.md"):
        (tmp_path / name).touch()
    assert [file.name for file in kmod.module_sources(tmp_path)] == ["Kbuild", "a.c", "a.h"]


# --- what a guest runs


def test_script_keeps_words_as_they_are() -> None:
    words = ["printf", r"%s\n", "it's", 'a "b"', "$HOME", "*"]
    script = guest_script("mark", [Share("/a dir", Path("/host"), True)], {"A": "x y;z"}, words)
    assert "mkdir -p '/a dir'" in script
    (command,) = (line for line in script.splitlines() if line.startswith("sh -c"))
    (export,) = (line for line in script.splitlines() if line.startswith("export"))
    said = subprocess.run(
        ["sh", "-c", f'{export}\n{command}\necho "$A"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == 'it\'s\na "b"\n$HOME\n*\nx y;z\n'


def test_reader_takes_what_follows_the_marker_even_when_it_comes_in_pieces() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as source:
        reader = Reader(source, "mark", None)
        reader.start()
        for piece in (b"noise\nma", b"rk", b"\nsaid", b" more\n"):
            os.write(write_end, piece)
        os.close(write_end)
        reader.join()
    assert reader.began.is_set()
    assert bytes(reader.before) == b"noise\n"
    assert reader.text == "said more\n"


def test_reader_without_marker_has_no_output() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"qemu: no such disk\n")
    os.close(write_end)
    with os.fdopen(read_end, "rb") as source:
        reader = Reader(source, "mark", None)
        reader.start()
        reader.join()
    assert not reader.began.is_set()
    assert bytes(reader.before) == b"qemu: no such disk\n"
    assert reader.text == ""


def test_guest_error_says_which_and_shows_the_console() -> None:
    error = GuestError("panic", "sysrq triggered crash", "last line")
    assert str(error).splitlines()[0] == "guest panic: sysrq triggered crash"
    assert "last line" in str(error)


# --- the table and the command line


def test_every_feature_of_a_row_has_a_probe() -> None:
    for kernel in KERNELS.values():
        assert set(kernel.features) <= FEATURES.keys()
    assert find_kernel("6.12").packages[0] == "linux-image-amd64/trixie"
    assert len(find_kernel("6.17").packages) == 1  # image only


def test_mirror_is_the_one_the_root_was_made_from(tmp_path: Path) -> None:
    sources = tmp_path / "tree/etc/apt/sources.list"
    sources.parent.mkdir(parents=True)
    sources.write_text(
        "deb [signed-by=/key] https://mirror.invalid/debian trixie main\n"
        "deb https://other.invalid/security trixie-security main\n"
    )
    assert Root(tmp_path).mirror == "https://mirror.invalid/debian"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "--kernel", "9.9", "--", "true"],
            "no kernel '9.9'; there are: 6.1, 6.12, 6.17, 7.2",
        ),
        (["run", "--kernel", "6.12"], "no command: put one after --"),
        (["pin", "--kernel", "9.9"], "no kernel '9.9'; there are: 6.1, 6.12, 6.17, 7.2"),
    ],
)
def test_bad_request_is_one_line_and_a_status_of_its_own(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["tests.vm", *words])
    assert main() == EXIT_LAB
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
