# SPDX-License-Identifier: Apache-2.0
"""Running one command in a guest, and telling the command's failures from the guest's."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.vm.accel import kvm_works
from tests.vm.errors import GuestError, Kind, LabError
from tests.vm.hang import print_blocked_tasks
from tests.vm.kernels import find_kernel
from tests.vm.kmod import GUEST_MODULE_DIR, build_module
from tests.vm.packages import KernelFiles, kernel_files
from tests.vm.root import Root, root
from tests.vm.script import LAB, STATUS, Share, guest_script, tag
from tests.vm.selftests import GUEST_SELFTESTS_DIR, kernel_selftests
from tests.vm.stage import GUEST_STAGE_DIR, GUEST_STAGE_ENV, TREE, stage_tree
from tests.vm.streams import Reader
from tests.vm.target import GUEST_TARGET_DIR, target_root

BOOT_SECONDS = 180.0
"""A boot takes 7 s emulated on an idle machine; this is for a loaded one."""
DEFAULT_TIMEOUT = 600.0
CONSOLE_TAIL_LINES = 60  # a panic with its registers and call trace
BLOCKED_TAIL_LINES = 80  # a blocked task takes about 25
POLL_SECONDS = 0.05
CONSOLE = "console"
MONITOR = "monitor"
PANIC = "Kernel panic - not syncing"
EXPEDITED = "rcupdate.rcu_expedited"


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ran to its end. `console` is all that the guest's kernel printed."""

    returncode: int
    stdout: str
    stderr: str
    console: str


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware and kernel options of a guest."""

    memory: str = "1G"
    cpus: int = 2
    single_threaded: bool = False
    """Emulate all processors on one thread: slower, but it never runs patched-over code."""
    counted: bool = False
    """Let the guest's clock count instructions, a nanosecond each, and idle time cost nothing: what
    it measures then does not depend on the host's load. Needs `cpus` to be 1."""
    append: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a guest has to reach the command, and that the command has to end."""

    boot: float
    command: float


def _vng() -> str:
    """virtme-ng's command: beside this interpreter, as pip puts it, or on PATH."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("vng", path=f"{beside}:{os.environ.get('PATH', '')}")
    if found is None:
        raise LabError("virtme-ng's command vng is not installed: pip install virtme-ng")
    return found


def _qemu_options(
    machine: Machine, shares: Sequence[Share], lab: Path, *, emulated: bool
) -> list[str]:
    # -snapshot gives each guest a private copy-on-write view of the one disk image. -set sends
    # the kernel's console, which vng throws away, to a file.
    options = ["-snapshot", "-set", f"chardev.console.path={lab / CONSOLE}"]
    options += ["-qmp", f"unix:{lab / MONITOR},server=on,wait=off"]
    if emulated:
        # instead of vng's plain max: QEMU 7.2's AVX2 lets numpy's sorts die by SIGSEGV
        options += ["-cpu", "max,avx2=off"]
    if machine.counted:
        options += ["-icount", "shift=0,sleep=off"]
    if machine.single_threaded or machine.counted:
        options += ["-accel", "tcg,thread=single"]
    for index, share in enumerate(shares):
        path = str(share.host).replace(",", ",,")
        access = "" if share.writable else ",readonly=on"
        options.append("-virtfs")
        options.append(
            f"local,path={path},mount_tag={tag(index)},security_model=none,multidevs=remap{access}"
        )
    return options


def _command_line(
    machine: Machine, disk: Root, kernel: KernelFiles, shares: Sequence[Share], lab: Path
) -> list[str]:
    emulated = machine.single_threaded or machine.counted or not kvm_works(kernel.image)
    qemu = shlex.join(_qemu_options(machine, shares, lab, emulated=emulated))
    # loglevel after vng's own quiet; an oops ends the guest, so that no test passes over one; a
    # guest that hangs is asked where.
    append = ["loglevel=7", "oops=panic", "sysrq_always_enabled"]
    if not machine.counted:
        # a recorder's end waits for readers probe by probe; what is measured waits as by default
        append.append(f"{EXPEDITED}=1")
    append += machine.append
    return [
        *(_vng(), "--run", str(kernel.image), "--user", "root", "--rw"),
        *("--root-disk", str(disk.disk), "--root-fstype", "ext4"),
        *("--busybox", str(disk.tree / "usr/bin/busybox")),
        # 9p is in every QEMU; virtiofsd differs from one distribution to the next and gains
        # little here, where the root is a disk.
        "--force-9p",
        *("--cpus", str(machine.cpus), "--memory", machine.memory),
        *(["--disable-kvm"] if emulated else []),
        *(word for option in append for word in ("--append", option)),
        *("--rwdir", f"{LAB}={lab / 'shared'}"),
        f"--qemu-opts={qemu}",
        *("--", "sh", f"{LAB}/run"),
    ]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End vng, QEMU and all between them; they are one process group."""
    for sent, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _tail(console: str, lines: int) -> str:
    return "\n".join(console.splitlines()[-lines:])


def _panic_line(console: str) -> str | None:
    return next((line for line in console.splitlines() if PANIC in line), None)


def _wait(process: subprocess.Popen[bytes], out: Reader, limits: Limits) -> bool:
    """Wait for the guest's end; False when its time is up and it has to be stopped."""
    deadline = time.monotonic() + limits.boot
    running = False
    while process.poll() is None:
        if not running and out.began.is_set():
            running = True
            deadline = time.monotonic() + limits.command
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _boot(argv: Sequence[str], lab: Path, marker: str, stream: bool, limits: Limits) -> Completed:
    """Start `argv`, a guest that runs the script in `lab`, and see it to its end."""
    path = f"{Path(argv[0]).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PATH": path, "TMPDIR": str(lab)},
        cwd=lab,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    out = Reader(process.stdout, marker, sys.stdout.buffer if stream else None)
    err = Reader(process.stderr, marker, sys.stderr.buffer if stream else None)
    try:
        out.start()
        err.start()
        in_time = _wait(process, out, limits)
        if not in_time:
            print_blocked_tasks(lab / MONITOR, lab / CONSOLE)
    finally:
        if process.poll() is None:
            out.mute()
            err.mute()
        _stop(process)
    out.join()
    err.join()
    console = _read(lab / CONSOLE)
    panic = _panic_line(console)
    status = _read(lab / "shared" / STATUS).strip()

    def failed(kind: Kind, message: str) -> GuestError:
        lines = CONSOLE_TAIL_LINES if in_time else BLOCKED_TAIL_LINES
        return GuestError(kind, message, _tail(console, lines), out.text, err.text)

    if not out.began.is_set():
        why = panic or bytes(out.before + err.before).decode(errors="replace").strip()
        if not in_time:
            why = f"still booting after {limits.boot:g} s"
        raise failed("boot", f"it never reached the command: {why or 'no word from it'}")
    if panic:
        raise failed("panic", panic)
    if not in_time:
        raise failed("hang", f"the command did not end within {limits.command:g} s")
    if not status:
        raise failed("lost", "it ended before the command did, without a panic")
    return Completed(int(status), out.text, err.text, console)


def run_guest(
    kernel: str,
    command: Sequence[str],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    boot_timeout: float = BOOT_SECONDS,
    machine: Machine = Machine(),
    shares: Mapping[str, Path] | None = None,
    env: Mapping[str, str] | None = None,
    module: bool = False,
    selftests: bool = False,
    target: bool = False,
    stage: bool = True,
    stream: bool = False,
) -> Completed:
    """Run `command` as root in a guest of `kernel`, in /src, which is this tree, read-only.

    `shares` maps guest paths to host directories that the command may write to. `module` puts the
    reference exporter at /opt/kmod, `selftests` the kernel's own tests at /opt/selftests, `target`
    a root of little more than Python at /run/target; `stage` installs the tree's package. `timeout`
    counts from the command's start, in seconds. `stream` also copies the output as it comes.

    Raises GuestError when the guest, not the command, fails; LabError when it can't be started."""
    if machine.counted and machine.cpus != 1:
        raise LabError("a guest whose clock counts instructions has one processor")
    row = find_kernel(kernel)
    disk = root()
    files = kernel_files(row, disk)
    if row.single_threaded and not kvm_works(files.image):
        machine = replace(machine, single_threaded=True)
    all_shares = [Share("/run/kernel", files.path), Share("/src", TREE)]
    variables = dict(env or {})
    if module:
        all_shares.append(Share(GUEST_MODULE_DIR, build_module(row, files, disk).parent))
    if selftests:
        all_shares.append(Share(GUEST_SELFTESTS_DIR, kernel_selftests(disk)))
    if target:
        all_shares.append(Share(GUEST_TARGET_DIR, target_root(disk)))
    if stage and (TREE / "pyproject.toml").exists():
        all_shares.append(Share(GUEST_STAGE_DIR, stage_tree(disk)))
        variables = GUEST_STAGE_ENV | variables
    for guest_path, host_path in (shares or {}).items():
        if not host_path.is_dir():
            raise LabError(f"cannot share {host_path}: it is not a directory")
        all_shares.append(Share(guest_path, host_path.absolute(), writable=True))
    marker = f"lab-{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="dmabuf-trace-guest-") as temporary:
        lab = Path(temporary)
        (lab / "shared").mkdir()
        script = guest_script(marker, all_shares, variables, command)
        (lab / "shared" / "run").write_text(script)
        argv = _command_line(machine, disk, files, all_shares, lab)
        return _boot(argv, lab, marker, stream, Limits(boot_timeout, timeout))
