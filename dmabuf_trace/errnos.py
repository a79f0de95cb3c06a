# SPDX-License-Identifier: Apache-2.0
"""Names of error numbers, those included that the kernel keeps to itself.

A probe sees what a call returns within the kernel. Where a signal interrupted it, that may be a
number of which user space gets EINTR, or nothing, as the kernel makes the call again.
"""

from __future__ import annotations

import errno
from typing import Final

INTERNAL: Final = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    516: "ERESTART_RESTARTBLOCK",
}
"""include/linux/errno.h, "should never be seen by user programs"."""

INTERRUPTED: Final = (errno.EINTR, errno.EAGAIN, *INTERNAL)
"""Numbers after which a call is to be made again, by its caller or by the kernel itself."""


def error_name(number: int) -> str:
    """EBUSY for 16; the number itself where it has no name."""
    return errno.errorcode.get(number) or INTERNAL.get(number, str(number))
