# SPDX-License-Identifier: Apache-2.0
"""Packets of a Perfetto trace: tracks, slices, instants and counters, by Perfetto's own classes.

Times are ns of CLOCK_MONOTONIC, as in the recording. Texts are made safe to show here. Ids of
tracks and flows come from the recording's, so that traces can be put behind each other in a file.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping
from math import inf
from typing import IO, Any, Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    BUILTIN_CLOCK_BOOTTIME,
    BUILTIN_CLOCK_MONOTONIC,
    BUILTIN_CLOCK_REALTIME,
    CounterDescriptor,
    TracePacket,
    TrackEvent,
)
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

from dmabuf_trace.render.text import printable

CLOCKS: Final = {
    "monotonic_ns": BUILTIN_CLOCK_MONOTONIC,
    "realtime_ns": BUILTIN_CLOCK_REALTIME,
    "boottime_ns": BUILTIN_CLOCK_BOOTTIME,
}
"""By their keys in a recording's header."""

BYTES: Final = CounterDescriptor.UNIT_SIZE_BYTES
COUNT: Final = CounterDescriptor.UNIT_COUNT

INTERNED: Final = 1 << 16
"""Different texts of a kind that are told once; others are told each time."""

_INT64: Final = 1 << 63
_INT32: Final = (1 << 31) - 1

Args = Mapping[str, object]
"""What a slice says of itself."""


class Packets:
    """Writes packets to a file; ``identity`` is the recording's."""

    def __init__(self, file: IO[bytes], identity: str) -> None:
        self._identity = identity
        self._builder = StreamingTraceProtoBuilder(file)
        self._sequence = self._id("sequence") & 0x3FFF | 1
        self._iids: dict[str, dict[str, int]] = defaultdict(dict)
        self._tracks: dict[tuple[Any, ...], int] = {}
        self._lanes: dict[tuple[int, str], list[tuple[float, int]]] = {}

    def _id(self, *key: int | str) -> int:
        text = repr((self._identity, *key))
        digest = hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=6).digest()
        return int.from_bytes(digest, "little")

    def _new(self) -> Any:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = self._sequence
        packet.sequence_flags = TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        return packet

    def begin_sequence(self, times: Mapping[str, int]) -> None:
        """Ahead of all others: the same moment by several clocks, by the keys of :data:`CLOCKS`."""
        packet = self._new()
        packet.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        packet.trace_packet_defaults.timestamp_clock_id = BUILTIN_CLOCK_MONOTONIC
        packet.clock_snapshot.primary_trace_clock = BUILTIN_CLOCK_MONOTONIC
        for key, clock in CLOCKS.items():
            if key in times:
                packet.clock_snapshot.clocks.add(clock_id=clock, timestamp=times[key])
        self._builder.write_packet(packet)

    def lost(self, events: int) -> None:
        """Let the reader warn of events that are missing."""
        packet = self._new()
        packet.trace_stats.buffer_stats.add(trace_writer_packet_loss=events)
        self._builder.write_packet(packet)

    def _described(self, key: tuple[Any, ...], name: str, parent: int) -> Any:
        """A packet that describes a new track."""
        self._tracks[key] = self._id("track", *key)
        packet = self._new()
        packet.track_descriptor.uuid = self._tracks[key]
        packet.track_descriptor.name = printable(name)
        if parent:
            packet.track_descriptor.parent_uuid = parent
        return packet

    def track(self, name: str, parent: int = 0, lane: int = 0) -> int:
        """A track, described when it is first asked for; lanes of one name are shown as one."""
        key = ("track", parent, name, lane)
        if key not in self._tracks:
            self._builder.write_packet(self._described(key, name, parent))
        return self._tracks[key]

    def process(self, pid: int, name: str) -> int:
        """The track of a process, by the name that is told first."""
        key = ("process", pid)
        if key not in self._tracks:
            packet = self._described(key, name, 0)
            packet.track_descriptor.process.pid = pid & _INT32
            packet.track_descriptor.process.process_name = printable(name)
            self._builder.write_packet(packet)
        return self._tracks[key]

    def thread(self, process: int, pid: int, tid: int, name: str) -> int:
        """The track of a thread: its slices lie within each other, or don't meet."""
        key = ("thread", pid, tid)
        if key not in self._tracks:
            packet = self._described(key, name, process)
            packet.track_descriptor.thread.pid = pid & _INT32
            packet.track_descriptor.thread.tid = tid & _INT32
            packet.track_descriptor.thread.thread_name = printable(name)
            self._builder.write_packet(packet)
        return self._tracks[key]

    def counter(self, name: str, unit: int, parent: int = 0) -> int:
        """A track of a counter."""
        key = ("counter", parent, name)
        if key not in self._tracks:
            packet = self._described(key, name, parent)
            packet.track_descriptor.counter.unit = unit
            self._builder.write_packet(packet)
        return self._tracks[key]

    def begin(self, track: int, ts: int, name: str, args: Args, flow: int | None = None) -> None:
        """Begin a slice; slices of one ``flow`` are joined by arrows, in order of time."""
        packet = self._event(TrackEvent.TYPE_SLICE_BEGIN, track, ts)
        self._tell(packet, name, args)
        if flow is not None:
            packet.track_event.flow_ids.append(self._id("flow", flow))
        self._builder.write_packet(packet)

    def end(self, track: int, ts: int) -> None:
        """End the slice of a track that was begun last."""
        self._builder.write_packet(self._event(TrackEvent.TYPE_SLICE_END, track, ts))

    def instant(self, track: int, ts: int, name: str, args: Args) -> None:
        """A moment."""
        packet = self._event(TrackEvent.TYPE_INSTANT, track, ts)
        self._tell(packet, name, args)
        self._builder.write_packet(packet)

    def count(self, track: int, ts: int, value: int) -> None:
        """The value of a counter from now on."""
        packet = self._event(TrackEvent.TYPE_COUNTER, track, ts)
        packet.track_event.counter_value = value
        self._builder.write_packet(packet)

    def _event(self, kind: int, track: int, ts: int) -> Any:
        packet = self._new()
        packet.timestamp = max(ts, 0)
        packet.track_event.type = kind
        packet.track_event.track_uuid = track
        return packet

    def _tell(self, packet: Any, name: str, args: Args) -> None:
        """Put texts into a packet, by number where they have come up before."""
        event = packet.track_event
        if iid := self._iid(packet, "event_names", name):
            event.name_iid = iid
        else:
            event.name = printable(name)
        for key, value in args.items():
            annotation = event.debug_annotations.add()
            annotation.name_iid = self._iid(packet, "debug_annotation_names", key)
            if isinstance(value, bool):
                annotation.bool_value = value
            elif isinstance(value, int) and -_INT64 <= value < _INT64:
                annotation.int_value = value
            elif iid := self._iid(packet, "debug_annotation_string_values", str(value)):
                annotation.string_value_iid = iid
            else:
                annotation.string_value = printable(str(value))

    def _iid(self, packet: Any, table: str, text: str) -> int:
        """The number of a text, told with its first use; 0: there are too many."""
        known = self._iids[table]
        if text not in known and len(known) < INTERNED:
            known[text] = len(known) + 1
            field = (
                {"str": printable(text).encode()}
                if table.endswith("values")
                else {"name": printable(text)}
            )
            getattr(packet.interned_data, table).add(iid=known[text], **field)
        return known.get(text, 0)

    def free_lane(self, name: str, parent: int, begin: int, end: int | None) -> int:
        """A track of that name whose last slice is over when one from ``begin`` to ``end`` begins.

        Where slices come in the order of their ends, there are no more lanes than overlap at once.
        None: the slice has no end.
        """
        lanes = self._lanes.setdefault((parent, name), [])
        at = bisect_right(lanes, (begin, inf)) - 1
        lane = lanes.pop(at)[1] if at >= 0 else len(lanes)
        insort(lanes, (inf if end is None else end, lane))
        return self.track(name, parent, lane)
