# SPDX-License-Identifier: Apache-2.0
"""The lab's command line: python -m tests.vm run|prepare|module|pin|list|clean."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.vm import pins
from tests.vm.accel import kvm_works
from tests.vm.cache import cache_dir, remove_tree
from tests.vm.errors import EXIT_LAB, LabError
from tests.vm.guest import BOOT_SECONDS, DEFAULT_TIMEOUT, Machine, run_guest
from tests.vm.kernels import KERNELS, find_kernel
from tests.vm.kmod import build_module
from tests.vm.packages import KernelFiles, kernel_files
from tests.vm.root import root
from tests.vm.stage import stage_tree

DEFAULT_KERNEL = "6.12"


def _share(text: str) -> tuple[str, Path]:
    guest, equals, host = text.partition("=")
    if not equals or not guest.startswith("/") or not Path(host).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not /GUESTPATH=an existing directory")
    return guest, Path(host)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _run(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise LabError("no command: put one after --, for example: run -- uname -a")
    completed = run_guest(
        args.kernel,
        command,
        timeout=args.timeout,
        boot_timeout=args.boot_timeout,
        machine=Machine(args.memory, args.cpus, args.single_threaded, args.counted, args.append),
        shares=dict(args.share),
        env=dict(args.env),
        module=args.module,
        selftests=args.selftests,
        stage=args.stage,
        stream=True,
    )
    return completed.returncode


def _prepare(args: argparse.Namespace) -> int:
    disk = root()
    for name in args.kernel or KERNELS:
        kernel = find_kernel(name)
        files = kernel_files(kernel, disk)
        kvm_works(files.image)
        if kernel.headers:
            build_module(kernel, files, disk)
        sys.stderr.write(f"lab: kernel {name} is {files.release}, ready in {files.path}\n")
    stage_tree(disk)
    return 0


def _module(args: argparse.Namespace) -> int:
    disk = root()
    kernel = find_kernel(args.kernel)
    print(build_module(kernel, kernel_files(kernel, disk), disk))
    return 0


def _pin(args: argparse.Namespace) -> int:
    pinned = pins.load()
    for name in args.kernel or KERNELS:
        pinned[find_kernel(name).name] = pins.ask(name)
    ordered = {name: pinned[name] for name in KERNELS if name in pinned}
    pins.save(ordered)
    pins.write_readme(ordered)
    sys.stderr.write("lab: wrote what doctor says now; see git diff\n")
    return 0


def _list(_args: argparse.Namespace) -> int:
    print(f"{'KERNEL':8}{'SUITE':18}{'RELEASE':28}FEATURES")
    for kernel in KERNELS.values():
        ready = sorted(cache_dir().glob(f"kernel-{kernel.name}-" + "[0-9a-f]" * 12))
        release = KernelFiles(ready[-1]).release if ready else "not fetched"
        print(f"{kernel.name:8}{kernel.suite:18}{release:28}{' '.join(kernel.features)}")
    return 0


def _clean(_args: argparse.Namespace) -> int:
    remove_tree(cache_dir())
    return 0


def _parser() -> argparse.ArgumentParser:
    usual = Machine()
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    run = verbs.add_parser("run", help="run a command as root in a guest; its exit status is yours")
    run.add_argument("--kernel", default=DEFAULT_KERNEL, help="see list")
    run.add_argument("--memory", default=usual.memory)
    run.add_argument("--cpus", type=int, default=usual.cpus)
    run.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT, metavar="SECONDS")
    run.add_argument("--boot-timeout", type=float, default=BOOT_SECONDS, metavar="SECONDS")
    run.add_argument("--single-threaded", action="store_true", help="emulate on one thread")
    run.add_argument("--counted", action="store_true", help="its clock counts instructions")
    run.add_argument("--append", action="append", default=[], metavar="KERNELARG")
    run.add_argument("--share", action="append", default=[], type=_share, metavar="GUEST=HOSTDIR")
    run.add_argument("--env", action="append", default=[], type=_variable, metavar="NAME=VALUE")
    run.add_argument("--module", action="store_true", help="reference exporter at /opt/kmod")
    run.add_argument("--selftests", action="store_true", help="kernel's own at /opt/selftests")
    run.add_argument("--no-stage", dest="stage", action="store_false", help="do not install tree")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    run.set_defaults(call=_run)

    prepare = verbs.add_parser("prepare", help="build and fetch all that guests need")
    prepare.add_argument("--kernel", action="append", help="only this one; may be repeated")
    prepare.set_defaults(call=_prepare)

    module = verbs.add_parser("module", help="build the reference exporter, print its path")
    module.add_argument("--kernel", default=DEFAULT_KERNEL)
    module.set_defaults(call=_module)

    pin = verbs.add_parser("pin", help="let doctor look, and expect from now on what it says")
    pin.add_argument("--kernel", action="append", help="only this one; may be repeated")
    pin.set_defaults(call=_pin)

    verbs.add_parser("list", help="show the kernels").set_defaults(call=_list)
    verbs.add_parser("clean", help="delete the lab's cache").set_defaults(call=_clean)
    return parser


def _terminated(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt  # so that a guest is stopped on the way out


def main() -> int:
    args = _parser().parse_args()
    try:
        status: int = args.call(args)
    except LabError as error:
        sys.stderr.write(f"lab: {error}\n")
        return EXIT_LAB
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())
