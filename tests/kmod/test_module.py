# SPDX-License-Identifier: Apache-2.0
"""The module's own checks, on a real kernel."""

from __future__ import annotations

import pytest

from tests.kmod.selftest import WITH_MODULE, WITH_REF, checks_in
from tests.vm import Machine, run_guest


@pytest.mark.guest
def test_selftest_passes_in_a_guest() -> None:
    # More than 4 GiB, so that pages exist which a 32-bit device cannot reach.
    done = run_guest(
        "6.12",
        ["python3", "-m", "tests.kmod.selftest", "/opt/kmod/dmabuf_ref.ko"],
        timeout=300,
        machine=Machine(memory="5G"),
        module=True,
        stage=False,
    )
    *lines, last = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"PASS {name}" for name in checks_in((*WITH_REF, *WITH_MODULE))
    ]
    assert last == "selftest: passed"
    assert done.returncode == 0
