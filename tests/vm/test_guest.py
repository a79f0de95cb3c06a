# SPDX-License-Identifier: Apache-2.0
"""The lab with guests: what a command says comes back, and what befalls its guest is named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm import Completed, GuestError, Machine, run_guest

pytestmark = pytest.mark.guest
KERNEL = "6.12"
SORTS = "import numpy; [numpy.argsort(numpy.random.permutation(n)) for n in range(500)]"
"""Died by SIGSEGV under emulation, of which pandas sorts its columns as well."""


def _sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_command_gets_its_surroundings_and_gives_back_its_output(tmp_path: Path) -> None:
    script = """
        pwd; test -f tests/vm/README.md && echo tree
        touch /src/new 2>/dev/null || echo read-only
        stat -f -c %T /tmp /sys/kernel/debug /sys/kernel/tracing
        python3 -c "$SORTS" && echo sorts
        id -u; echo "$GREETING" >&2; echo kept >/out/file; exit 7
    """
    done = run_guest(
        KERNEL,
        _sh(script),
        shares={"/out": tmp_path},
        env={"GREETING": 'it\'s "quoted" $HOME', "SORTS": SORTS},
        stage=False,
    )
    assert done.returncode == 7
    assert done.stdout == "/src\ntree\nread-only\ntmpfs\ndebugfs\ntracefs\nsorts\n0\n"
    assert done.stderr == 'it\'s "quoted" $HOME\n'
    assert (tmp_path / "file").read_text() == "kept\n"
    assert "Linux version 6.12." in done.console


def test_two_guests_run_side_by_side(tmp_path: Path) -> None:
    # Each waits for the other's word, so neither can end before both have begun; and what one
    # writes to its root the other does not see.
    script = """
        test -e /mark && exit 9; touch /mark /out/$ME
        until test -e /out/$OTHER; do sleep 0.2; done
        no-such-command
    """

    def guest(me: str, other: str) -> Completed:
        env = {"ME": me, "OTHER": other}
        return run_guest(KERNEL, _sh(script), shares={"/out": tmp_path}, env=env, stage=False)

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(guest, ["one", "two"], ["two", "one"]))
    assert [guest.returncode for guest in done] == [127, 127]
    assert all("no-such-command: not found" in guest.stderr for guest in done)


def test_panic_is_the_guests_failure_not_the_commands() -> None:
    with pytest.raises(GuestError) as caught:
        run_guest(KERNEL, _sh("echo last words; echo c >/proc/sysrq-trigger"), stage=False)
    assert caught.value.kind == "panic"
    assert caught.value.stdout == "last words\n"
    assert "sysrq triggered crash" in str(caught.value)
    assert "sysrq_handle_crash" in caught.value.console


def test_time_limit_stops_the_guest_and_shows_what_blocks_it() -> None:
    # A mount that was frozen blocks its writers in the kernel.
    freeze = "fsfreeze --freeze / && echo frozen && touch /blocked"
    with pytest.raises(GuestError, match="did not end within 5 s") as caught:
        run_guest(KERNEL, _sh(freeze), timeout=5, stage=False)
    assert caught.value.kind == "hang"
    assert caught.value.stdout == "frozen\n"
    assert "task:touch" in caught.value.console


def test_guest_that_never_boots_is_told_from_one_that_panics() -> None:
    no_root = Machine(append=("root=/dev/no-such-disk",))
    with pytest.raises(GuestError, match=r"never reached the command: .*Kernel panic") as caught:
        run_guest(KERNEL, ["true"], machine=no_root, stage=False)
    assert caught.value.kind == "boot"


def test_boot_has_a_time_limit_of_its_own() -> None:
    with pytest.raises(GuestError, match="still booting after 1 s") as caught:
        run_guest(KERNEL, ["true"], boot_timeout=1, stage=False)
    assert caught.value.kind == "boot"
