/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the ways to load these programs is below this file: types, kernel structs,
 * helpers, reads, program and map declarations. Nothing above it may know how the source is
 * loaded. No program has constants to patch: configuration is compiled in or a map.
 *
 * PROBE(name) { body }: a program on a function's entry, with ARG1(ctx)..., or on its return, with
 * RETURNED(ctx). It must return 0: for a kprobe any other value would also hand the event to other
 * readers of the probe.
 *
 * TRACEPOINT(name) { body }: a program on a raw tracepoint; TP_ARG(ctx, 0) is the first of
 * TP_PROTO(). It must return 0.
 *
 * READ(to, pointer->member): one hop, of at most a word; @to is zeroed where it can't be read.
 */
#ifndef DMABUF_TRACE_DIALECT_H
#define DMABUF_TRACE_DIALECT_H

#ifdef BCC
#include "bcc.bpf.h"
#else
#include "core.bpf.h"
#endif

#include "events.gen.h"

#ifndef WITHOUT_MAPS	/* set where the programs need none */

#define MAX_STRINGS 8192
#define MAX_RESERVATIONS 16384
#define MAX_TABLES 4096
#define MAX_EXPORTERS 256
#define MAX_OPERATIONS 2048

struct call_key {
	u64 thread;
	u32 kind;
	u16 operation;	/* of EV_OPERATION */
	u16 depth;	/* 0: the outermost call of its kind on its thread */
};

/* What the entry of a call leaves for its return. */
struct call {
	u64 ts;
	u64 first, second, third;
	u64 nested;	/* in the outermost: calls of its kind within it, at depths 1 to this */
};

struct comm {
	u64 words[2];
	u64 cgroup;
};

struct stack_frames {
	u64 address[STACK_DEPTH];
};

RING(events, EVENT_RING_BYTES);
RING(names, MAX_NAMES);
SHOWN_ARRAY(u64, losses, KIND_SLOTS * CAUSE_SLOTS);
MAP(hash, struct call_key, struct call, inflight, MAX_INFLIGHT);
MAP(lru_hash, u64, u64, strings, MAX_STRINGS);
MAP(lru_hash, u64, u64, devices, MAX_STRINGS);
MAP(lru_hash, u64, u64, reservations, MAX_RESERVATIONS);	/* address: inode of its buffer */
MAP(lru_hash, u64, u64, tables, MAX_TABLES);	/* a files_struct: how many fds of buffers */
MAP(lru_hash, u64, u64, exporters, MAX_EXPORTERS);	/* a dma_buf_ops: its map_dma_buf */
MAP(hash, u64, u64, operations, MAX_OPERATIONS);	/* a function: number of its operation */
MAP(array, u32, u64, dmabuf_fops, 1);
MAP(array, u32, struct config, configs, 1);

/* The sizes of these depend on what is asked for: the loader may change them. */
MAP(stacktrace, u32, struct stack_frames, stacks, MAX_STACKS);
MAP(stacktrace, u32, struct stack_frames, user_stacks, MAX_USER_STACKS);

/* Sets of keys for the filters: buffers that match, those that are watched; processes. */
MAP(hash, u64, u64, matching, MAX_MATCHING);
MAP(hash, u64, u64, watched, MAX_WATCHED);
MAP(hash, u64, u64, pids, MAX_PIDS);

/* Access to the maps, a function each, which one loader refuses within macros. */
#ifdef BCC
#include "bcc_maps.bpf.h"
#else
#include "core_maps.bpf.h"
#endif

#endif /* WITHOUT_MAPS */

#endif
