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
	s16 stack;	/* id of the kernel stack; -1: none */
	s16 user_stack;	/* id of the user stack; -1: none */
	u32 detail;	/* per kind */
	u16 kind;	/* one of the kinds below */
	u16 cpu;	/* processor that made the record */
};
_Static_assert(sizeof(struct event) == 72, "no padding in event");

struct name {
	u64 id;	/* string id (hash of the text); comm: thread; operation: address of the function */
	u64 ts;	/* ns, CLOCK_MONOTONIC, from when on the name holds */
	u32 type;	/* one of the name types below */
	u32 pid;	/* process (tgid), for a comm; operation number, for an operation */
	u64 cgroup;	/* cgroup of the thread (cgroup v2: inode of its directory), for a comm */
	char text[64];	/* the name, NUL-terminated, cut where too long */
	char driver[32];	/* driver bound to a device; empty: none */
	char bus[16];	/* bus of a device; empty: none */
};
_Static_assert(sizeof(struct name) == 144, "no padding in name");

struct config {
	u64 kernel_stacks;	/* bit per kind: its events carry a kernel stack */
	u64 user_stacks;	/* bit per kind: its events carry a user stack */
	u64 kinds;	/* bit per kind: it is observed */
	u64 task_work_begin;	/* where task_work_run() begins; 0: not known */
	u64 task_work_end;	/* where it ends */
	u64 filters;	/* FILTER_* bits of the filters that are on; 0: every event passes */
	u64 exporter;	/* string id of the exporter that passes */
	u64 min_size;	/* bytes of the smallest buffer that passes */
	u64 max_size;	/* bytes of the largest buffer that passes */
	char comm[16];	/* name of the threads that pass, padded with zeros */
};
_Static_assert(sizeof(struct config) == 88, "no padding in config");

struct found {
	u64 buffer;	/* inode number of the dma-buf */
	u64 size;	/* bytes */
	u64 references;	/* references to its file, without the look's own */
	char exporter[64];	/* exporter, NUL-terminated, cut where too long */
	char name[32];	/* name given by user space; empty: none */
};
_Static_assert(sizeof(struct found) == 120, "no padding in found");

struct sync_file_fd {
	u32 pid;	/* process (tgid) that has it open */
	u32 fd;	/* fd number */
	char comm[16];	/* name of the process */
};
_Static_assert(sizeof(struct sync_file_fd) == 24, "no padding in sync_file_fd");

struct queued {
	u64 buffer;	/* inode number of the dma-buf; 0: the socket has more than are told */
	u64 size;	/* bytes */
	u64 socket;	/* inode number of the socket that the fd is queued in */
	u32 pid;	/* process (tgid) that has the socket open */
	u32 sender;	/* process (tgid) that sent it, else that connected; 0: not known */
	char comm[16];	/* name of the process that has the socket */
	char sender_comm[16];	/* name of the sender; empty: it is gone */
	u64 references;	/* references to its file, without the look's own */
	char exporter[64];	/* exporter, NUL-terminated, cut where too long */
	char name[32];	/* name given by user space; empty: none */
};
_Static_assert(sizeof(struct queued) == 168, "no padding in queued");

struct held {
	u64 buffer;	/* inode number of the dma-buf */
	u64 size;	/* bytes */
	u64 start;	/* start address of a VMA; 0: an fd */
	u64 length;	/* length of a VMA in bytes; 0: an fd */
	u64 table;	/* struct files_struct that the fd is in; 0: a VMA */
	u32 pid;	/* process (tgid) that holds it */
	s32 fd;	/* fd number; -1: a VMA */
	char comm[16];	/* name of the process */
	u64 references;	/* references to its file, without the look's own */
	char exporter[64];	/* exporter, NUL-terminated, cut where too long */
	char name[32];	/* name given by user space; empty: none */
};
_Static_assert(sizeof(struct held) == 168, "no padding in held");

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
	EV_FORK = 24,	/* a process was made whose table of fds is a copy, buffers included */
	EV_POLL = 25,	/* user space asked whether the buffer's fences have signalled */
	EV_LOCK_WAIT = 26,	/* a thread waited for the buffer's reservation lock */
	EV_FENCE_WAIT = 27,	/* a thread waited for a fence of the buffer */
	EV_OPERATION = 28,	/* the core called the exporter */
};

enum operation {
	OPERATION_ATTACH = 1,
	OPERATION_DETACH = 2,
	OPERATION_PIN = 3,
	OPERATION_UNPIN = 4,
	OPERATION_MAP = 5,
	OPERATION_UNMAP = 6,
	OPERATION_BEGIN = 7,
	OPERATION_END = 8,
	OPERATION_MMAP = 9,
	OPERATION_VMAP = 10,
	OPERATION_VUNMAP = 11,
};

enum context {
	CONTEXT_UNKNOWN = 0,
	CONTEXT_TASK = 1,
	CONTEXT_TASK_WORK = 2,
	CONTEXT_KERNEL_WORKER = 3,
	CONTEXT_KERNEL_THREAD = 4,
};

enum name_type {
	NAME_EXPORTER = 1,
	NAME_DEVICE = 2,
	NAME_BUFFER = 3,
	NAME_COMM = 4,
	NAME_OPERATION = 5,
};

enum loss_cause {
	LOSS_RING_FULL = 0,	/* the ring had no room: the event is gone */
	LOSS_INFLIGHT_FULL = 1,	/* the table of calls under way was full: the call's return made no event */
	LOSS_NO_ENTRY = 2,	/* a return whose entry was missed: the call made no event */
	LOSS_STRING_LOST = 3,	/* a name did not fit its ring: it is shown as unknown until seen again */
	LOSS_STACK_LOST = 4,	/* a stack could not be taken: the event has none */
	LOSS_UNREADABLE = 5,	/* the call's arguments could not be read: it made no event */
	LOSS_PROBE_MISSED = 6,	/* the kernel passed over the probe, having no room for so many calls at once: no event */
	LOSS_RECURSION = 7,	/* the kernel skipped the program on a busy processor: no event */
	LOSS_STACK_COLLISION = 8,	/* another stack had the place of this one in the table: the event has none */
	LOSS_UNWATCHED = 9,	/* no room to watch one more buffer that the filters let pass: later events on it may be missing uncounted */
};

#define FILTER_PIDS 1
#define FILTER_COMM 2
#define FILTER_EXPORTER 4
#define FILTER_SIZE 8
#define KIND_SLOTS 32
#define CAUSE_SLOTS 16
#define STACK_DEPTH 48
#ifndef MAX_NAMES
#define MAX_NAMES 1048576
#endif
#ifndef MAX_INFLIGHT
#define MAX_INFLIGHT 16384
#endif
#ifndef MAX_STACKS
#define MAX_STACKS 4096
#endif
#ifndef MAX_USER_STACKS
#define MAX_USER_STACKS 4096
#endif
#ifndef MAX_MATCHING
#define MAX_MATCHING 65536
#endif
#ifndef MAX_WATCHED
#define MAX_WATCHED 65536
#endif
#ifndef MAX_PIDS
#define MAX_PIDS 16384
#endif
#define UNKNOWN_STACK (-1)
#define ATTACH_DYNAMIC 1
#define ATTACH_PEER2PEER 2
#define ATTACH_P2P_ASKED 4
#define ATTACH_P2P_NOT_ASKED 8
#define SYNC_END 4
#define MAP_CACHED 4
#define MAP_ENTRIES_SHIFT 8
#define MAX_ENTRIES 0xffffff
#define FD_DUP2 1
#define FENCE_TIMED_OUT 1

#endif
