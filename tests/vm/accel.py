# SPDX-License-Identifier: Apache-2.0
"""Whether guests may use KVM here: only where one was seen to boot under it.

A /dev/kvm that opens proves nothing: under some hypervisors a guest then hangs for ever."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tests.vm.cache import cache_dir, lock
from tests.vm.errors import LabError
from tests.vm.progress import step

PROBE_SECONDS = 20.0
QEMU = "qemu-system-x86_64"


def _boots_under_kvm(image: Path) -> bool:
    """Boot a kernel without a root. It gets as far as the panic that says so, or it does not."""
    with tempfile.NamedTemporaryFile(prefix="dmabuf-trace-kvm-") as console:
        command = [
            *(QEMU, "-accel", "kvm", "-m", "256M", "-nodefaults", "-display", "none"),
            *("-no-reboot", "-serial", f"file:{console.name}"),
            *("-kernel", str(image), "-append", "console=ttyS0 panic=-1"),
        ]
        quiet = subprocess.DEVNULL
        try:
            subprocess.run(
                command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=PROBE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        except FileNotFoundError as error:
            raise LabError(f"{QEMU} is not installed; ./dev vm installs what it needs") from error
        return b"Kernel panic" in Path(console.name).read_bytes()


def kvm_works(image: Path) -> bool:
    """Probe once per boot of this machine; the answer is kept in the cache."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with lock("kvm"):
        answer = cache_dir() / "kvm" / f"{boot_id}-{os.geteuid()}"
        if not answer.exists():
            answer.parent.mkdir(parents=True, exist_ok=True)
            with step("probing whether guests boot under KVM"):
                answer.write_text("yes" if _boots_under_kvm(image) else "no")
        return answer.read_text() == "yes"
