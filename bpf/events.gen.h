/* SPDX-License-Identifier: GPL-2.0 */
/* GENERATED from dmabuf_trace/schema.py by python -m bpf.generate: do not edit. */
#ifndef DMABUF_TRACE_EVENTS_GEN_H
#define DMABUF_TRACE_EVENTS_GEN_H

struct event {
	u64 ts;	/* ns, CLOCK_MONOTONIC, when the record was made; a timed call: at its return */
	u64 dur;	/* ns spent in the call on its thread; 0 where the kind is not timed */
	u64 buffer;	/* inode number of the dma-buf (per boot, never reused); 0: none came to be */
	u64 object;	/* address of the object that the event is about */
	u64 value;	/* per kind */
	u64 aux;	/* per kind; a string id where it names something */
	u32 pid;	/* process (tgid) of the calling thread */
	u32 tid;	/* calling thread */
	s32 ret;	/* 0, or the negative errno that the call returned */
	s32 stack;	/* id of the kernel stack; -1: none */
	u32 detail;	/* per kind */
	u16 kind;	/* one of the kinds below */
	u16 cpu;	/* processor that made the record */
};
_Static_assert(sizeof(struct event) == 72, "no padding in event");

struct name {
	u64 id;	/* string id (hash of the text), or the thread for a comm */
	u64 ts;	/* ns, CLOCK_MONOTONIC, from when on the name holds */
	u32 type;	/* one of the name types below */
	u32 pid;	/* process (tgid), for a comm */
	char text[64];	/* the name, NUL-terminated, cut where too long */
	char driver[32];	/* driver bound to a device; empty: none */
	char bus[16];	/* bus of a device; empty: none */
};
_Static_assert(sizeof(struct name) == 136, "no padding in name");

struct found {
	u64 buffer;	/* inode number of the dma-buf */
	u64 size;	/* bytes */
	u64 references;	/* references to its file, without the look's own */
	char exporter[64];	/* exporter, NUL-terminated, cut where too long */
	char name[32];	/* name given by user space; empty: none */
};
_Static_assert(sizeof(struct found) == 120, "no padding in found");

struct held {
	u64 buffer;	/* inode number of the dma-buf */
	u64 size;	/* bytes */
	u64 start;	/* start address of a VMA; 0: an fd */
	u64 length;	/* length of a VMA in bytes; 0: an fd */
	u32 pid;	/* process (tgid) that holds it */
	s32 fd;	/* fd number; -1: a VMA */
	char comm[16];	/* name of the process */
	u64 references;	/* references to its file, without the look's own */
	char exporter[64];	/* exporter, NUL-terminated, cut where too long */
	char name[32];	/* name given by user space; empty: none */
};
_Static_assert(sizeof(struct held) == 160, "no padding in held");

enum event_kind {
	EV_EXPORT = 1,	/* an exporter made a buffer */
	EV_FD_INSTALL = 2,	/* a file descriptor for the buffer appeared in a process */
	EV_ATTACH = 3,	/* an importer device attached, or was refused */
	EV_DETACH = 4,	/* an importer device detached */
	EV_MAP = 5,	/* an attachment was mapped into its device's address space */
	EV_UNMAP = 6,	/* a mapping was given back */
	EV_CPU_BEGIN = 7,	/* user space began CPU access */
	EV_CPU_END = 8,	/* user space ended CPU access */
	EV_MMAP = 9,	/* the buffer was mapped into a process through its own fd */
	EV_MMAP_IMPORTER = 10,	/* the buffer was mapped into a process through an importer's fd */
	EV_SET_NAME = 11,	/* user space named the buffer */
	EV_RELEASE = 12,	/* the last reference is gone and the buffer is freed */
	EV_FD_CLOSE = 13,	/* a process let go of a file descriptor of the buffer */
	EV_GET = 14,	/* a driver looked a buffer up by fd, and took a reference */
	EV_PIN = 15,	/* an importer pinned the buffer where it is */
	EV_UNPIN = 16,	/* an importer gave its pin back */
	EV_MOVE = 17,	/* the exporter told its importers that it moves the buffer: mappings are no longer valid */
	EV_KERNEL_BEGIN = 18,	/* a driver began CPU access */
	EV_KERNEL_END = 19,	/* a driver ended CPU access */
	EV_VMAP = 20,	/* a driver mapped the buffer into the kernel */
	EV_VUNMAP = 21,	/* a driver gave its kernel mapping back */
	EV_EXPORT_SYNC_FILE = 22,	/* user space took the buffer's fences out as a sync_file */
	EV_IMPORT_SYNC_FILE = 23,	/* user space put a sync_file's fence into the buffer */
};

enum name_type {
	NAME_EXPORTER = 1,
	NAME_DEVICE = 2,
	NAME_BUFFER = 3,
	NAME_COMM = 4,
};

enum loss_cause {
	LOSS_RING_FULL = 0,	/* the ring had no room: the event is gone */
	LOSS_INFLIGHT_FULL = 1,	/* the table of calls under way was full: the call's return made no event */
	LOSS_NO_ENTRY = 2,	/* a return without its entry: the call made no event */
	LOSS_STRING_LOST = 3,	/* a name did not fit its ring: it is shown as unknown until seen again */
	LOSS_STACK_LOST = 4,	/* a kernel stack was not kept: the event has none */
	LOSS_UNREADABLE = 5,	/* the call's arguments could not be read: it made no event */
	LOSS_PROBE_MISSED = 6,	/* the kernel passed over the probe, having no room for so many calls at once: no event */
	LOSS_RECURSION = 7,	/* the kernel skipped the program on a busy processor: no event */
};

#define KIND_SLOTS 32
#define CAUSE_SLOTS 8
#define NAME_RING_BYTES 1048576
#define STACK_DEPTH 48
#define UNKNOWN_STACK (-1)
#define ATTACH_DYNAMIC 1
#define ATTACH_PEER2PEER 2
#define SYNC_END 4

#endif
