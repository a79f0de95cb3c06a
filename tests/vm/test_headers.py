# SPDX-License-Identifier: Apache-2.0
"""bcc compiles the programs against every kernel's headers; no guest takes part."""

from __future__ import annotations

import pytest

from dmabuf_trace.probes import FOLLOWING, PROBES
from tests.vm.headers import has_headers, run_with_headers
from tests.vm.kernels import KERNELS, Kernel
from tests.vm.packages import kernel_files
from tests.vm.root import root


@pytest.mark.guest  # needs root and the lab's root, though nothing boots
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_bcc_compiles_every_program(kernel: Kernel) -> None:
    if not has_headers(kernel_files(kernel, root())):
        assert kernel.name == "6.17"  # of which the archive has the image only
        return
    output = run_with_headers(kernel, ["python3", "-m", "tests.bcc_compile"])

    programs = {
        name for p in (*PROBES, *FOLLOWING) for name in (p.entry, p.returned, p.point) if name
    }
    assert set(output.split()) == programs
