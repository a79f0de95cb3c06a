# SPDX-License-Identifier: Apache-2.0
"""The lab: real kernels in QEMU guests, for tests and for people. See README.md beside this."""

from tests.vm.errors import GuestError as GuestError
from tests.vm.errors import LabError as LabError
from tests.vm.guest import Completed as Completed
from tests.vm.guest import Machine as Machine
from tests.vm.guest import run_guest as run_guest
