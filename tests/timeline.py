# SPDX-License-Identifier: Apache-2.0
"""A Perfetto trace, read by Perfetto's own protobufs and as its documentation says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    BUILTIN_CLOCK_MONOTONIC,
    Trace,
    TracePacket,
    TrackEvent,
)


@dataclass(frozen=True, slots=True)
class Slice:
    """``track`` is the path of names that leads to it; no ``end``: it never ended."""

    track: tuple[str, ...]
    name: str
    begin: int
    end: int | None
    args: dict[str, Any] = field(compare=False)
    flows: tuple[int, ...] = field(default=(), compare=False)
    depth: int = field(default=0, compare=False)
    lane: int = field(default=0, compare=False)


NEVER: Final = 1 << 64


class Seen:
    """What there is to see."""

    def __init__(self, path: Path) -> None:
        trace = Trace.FromString(path.read_bytes())
        self.packets = list(trace.packet)
        described = [p.track_descriptor for p in self.packets if p.HasField("track_descriptor")]
        self.tracks = {track.uuid: track for track in described}
        assert len(self.tracks) == len(described), "a track is described once"
        self.events = [p for p in self.packets if p.HasField("track_event")]
        self._resolve()
        known: set[int] = set()
        for packet in self.packets:  # each track is described ahead of its events
            if packet.HasField("track_descriptor"):
                assert packet.track_descriptor.parent_uuid in {0, *known}
                known.add(packet.track_descriptor.uuid)
            elif packet.HasField("track_event"):
                assert packet.track_event.track_uuid in known
        self.events.sort(key=lambda packet: packet.timestamp)  # stable, as in the trace processor
        self.slices = sorted(self._slices(), key=lambda each: (each.track, each.begin, each.name))

    def _resolve(self) -> None:
        """Put what the sequence's state stands for into its packets."""
        first, *others = self.packets
        assert first.sequence_flags == TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        assert first.trace_packet_defaults.timestamp_clock_id == BUILTIN_CLOCK_MONOTONIC
        names: dict[int, str] = {}
        keys: dict[int, str] = {}
        texts: dict[int, str] = {}
        for packet in others:
            assert packet.sequence_flags == TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
            assert packet.trusted_packet_sequence_id == first.trusted_packet_sequence_id
            told = packet.interned_data
            names |= {each.iid: each.name for each in told.event_names}
            keys |= {each.iid: each.name for each in told.debug_annotation_names}
            texts |= {each.iid: each.str.decode() for each in told.debug_annotation_string_values}
            if packet.track_event.name_iid:
                packet.track_event.name = names[packet.track_event.name_iid]
            for each in packet.track_event.debug_annotations:
                each.name = keys[each.name_iid]
                if each.HasField("string_value_iid"):
                    each.string_value = texts[each.string_value_iid]

    def path(self, uuid: int) -> tuple[str, ...]:
        """The names of a track and of those above it."""
        track = self.tracks[uuid]
        above = self.path(track.parent_uuid) if track.parent_uuid else ()
        return (*above, track.name)

    def _slices(self) -> Iterator[Slice]:
        opened: dict[int, list[Any]] = defaultdict(list)

        def made(packet: Any, end: int | None, depth: int) -> Slice:
            event = packet.track_event
            track, flows = self.path(event.track_uuid), tuple(event.flow_ids)
            where = (_args(event), flows, depth, event.track_uuid)
            return Slice(track, event.name, packet.timestamp, end, *where)

        for packet in self.events:
            stack = opened[packet.track_event.track_uuid]
            if packet.track_event.type == TrackEvent.TYPE_SLICE_BEGIN:
                stack.append(packet)
            elif packet.track_event.type == TrackEvent.TYPE_SLICE_END:
                begun = stack.pop()
                yield made(begun, packet.timestamp, len(stack))
        for stack in opened.values():
            for depth, begun in enumerate(stack):
                yield made(begun, None, depth)

    def on(self, *track: str) -> list[tuple[str, int, int | None]]:
        """Name, begin and end of the slices of a track."""
        return [(each.name, each.begin, each.end) for each in self.slices if each.track == track]

    def moments(self, *track: str) -> list[tuple[str, int]]:
        """Name and time of the instants of a track."""
        return [
            (packet.track_event.name, packet.timestamp)
            for packet in self.events
            if packet.track_event.type == TrackEvent.TYPE_INSTANT
            and self.path(packet.track_event.track_uuid) == track
        ]

    def counter(self, *track: str) -> list[tuple[int, int]]:
        """Times and values."""
        return [
            (packet.timestamp, packet.track_event.counter_value)
            for packet in self.events
            if packet.track_event.type == TrackEvent.TYPE_COUNTER
            and self.path(packet.track_event.track_uuid) == track
        ]

    def texts(self) -> Iterator[str]:
        """All that people get to read."""
        for track in self.tracks.values():
            yield from (track.name, track.process.process_name, track.thread.thread_name)
        for packet in self.events:
            yield packet.track_event.name
            for each in packet.track_event.debug_annotations:
                yield from (each.name, each.string_value)


def _args(event: Any) -> dict[str, Any]:
    return {each.name: getattr(each, each.WhichOneof("value")) for each in event.debug_annotations}
