# SPDX-License-Identifier: Apache-2.0
"""Which back end loads the programs: found out by loading, not by asking what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dmabuf_trace.errors import InputError, UntraceableError
from dmabuf_trace.loader import tracefs
from dmabuf_trace.loader.bcc import BccBackend
from dmabuf_trace.loader.core import CoreBackend
from dmabuf_trace.loader.interface import AUTO, BCC, CORE, DEFAULT_MAXACTIVE, KPROBE, Backend
from dmabuf_trace.loader.libbpf import Libbpf
from dmabuf_trace.loader.loader import Loader
from dmabuf_trace.probes import Probe


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load and attach.

    ``ring_bytes``: size of the event ring, a power of two of at least one page. ``loader`` is one
    of :data:`interface.LOADERS`, ``attach`` one of :data:`interface.MODES`. ``maxactive``: calls
    that may be under way at once per timed function that has a kprobe. ``entries``: sizes of other
    maps, where they are to differ from :data:`schema.MAP_ENTRIES`.
    """

    ring_bytes: int
    loader: str = AUTO
    attach: str = AUTO
    maxactive: int = DEFAULT_MAXACTIVE
    entries: Mapping[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Raise InputError where loader and mode don't go together."""
        if self.loader == BCC and self.attach not in (AUTO, KPROBE):
            raise InputError(
                f"the bcc loader can't attach by {self.attach}", "leave out --loader or --attach"
            )


def load(probes: Sequence[Probe], config: NDArray[np.void], options: LoadOptions) -> Loader:
    """Load and attach the programs of these probes.

    ``config`` is what the programs are told, of :data:`schema.CONFIG_DTYPE`.

    Raises:
        InputError: the options don't go together.
        UntraceableError: no back end can load them here, or not for this user.
    """
    options.check()
    tracefs.root()  # what no back end can do without is asked first
    lib = Libbpf()

    def by(backend: Backend) -> Loader:
        return Loader(
            backend, lib, probes, config, mode=options.attach, maxactive=options.maxactive
        )

    if options.loader == BCC:
        return by(BccBackend(options.ring_bytes, options.entries))
    try:
        return by(CoreBackend(lib, options.ring_bytes, options.entries))
    except UntraceableError as error:
        if options.loader == CORE or options.attach not in (AUTO, KPROBE):
            raise
        core = error
    try:
        return by(BccBackend(options.ring_bytes, options.entries))
    except UntraceableError as bcc:
        raise UntraceableError(f"core: {core}; bcc: {bcc}", bcc.hint or core.hint) from None
