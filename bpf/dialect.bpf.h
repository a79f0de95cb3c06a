/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the ways to load these programs: types, kernel structs, helpers, maps,
 * program declarations and reads. Nothing else may know how the source is loaded.
 *
 * Kernel structs name only the members that are read; the loader relocates them against the
 * running kernel's BTF. No program has constants to patch: configuration is compiled in or a map.
 */
#ifndef DMABUF_TRACE_DIALECT_H
#define DMABUF_TRACE_DIALECT_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;
typedef _Bool bool;

#include "events.gen.h"

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define OUTLINE static __attribute__((noinline))	/* once in the object, however often called */

/* ---- kernel structs ------------------------------------------------------------------- */

#define KERNEL_STRUCT __attribute__((preserve_access_index))

struct super_block {
	unsigned long s_magic;
} KERNEL_STRUCT;

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
} KERNEL_STRUCT;

struct counter {
	s64 counter;
} KERNEL_STRUCT;

/* The count of references: f_count up to 6.12, f_ref (one less) in later kernels. */
struct file_ref {
	struct counter refcnt;
} KERNEL_STRUCT;

struct file {
	const void *f_op;
	void *private_data;
	struct inode *f_inode;
	struct counter f_count;
	struct file_ref f_ref;
} KERNEL_STRUCT;

struct dma_buf {
	u64 size;
	struct file *file;
	const char *exp_name;
	const char *name;
} KERNEL_STRUCT;

struct dma_buf_export_info {
	const char *exp_name;
	u64 size;
	int flags;
} KERNEL_STRUCT;

struct kobject {
	const char *name;
} KERNEL_STRUCT;

struct device_driver {
	const char *name;
} KERNEL_STRUCT;

struct bus_type {
	const char *name;
} KERNEL_STRUCT;

struct device {
	struct kobject kobj;
	const char *init_name;
	struct bus_type *bus;
	struct device_driver *driver;
} KERNEL_STRUCT;

struct dma_buf_attachment {
	struct dma_buf *dmabuf;
	struct device *dev;
	bool peer2peer;
	const void *importer_ops;
} KERNEL_STRUCT;

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	struct file *vm_file;
} KERNEL_STRUCT;

/* ---- registers of a function call, per architecture ------------------------------------ */

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#define ARG1(ctx) ((ctx)->di)
#define ARG2(ctx) ((ctx)->si)
#define ARG3(ctx) ((ctx)->dx)
#define RETURNED(ctx) ((ctx)->ax)
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	unsigned long regs[31];
	unsigned long sp, pc, pstate;
};
#define ARG1(ctx) ((ctx)->regs[0])
#define ARG2(ctx) ((ctx)->regs[1])
#define ARG3(ctx) ((ctx)->regs[2])
#define RETURNED(ctx) ((ctx)->regs[0])
#else
#error "no argument registers for this architecture: add them here"
#endif

/* ---- helpers (numbers: include/uapi/linux/bpf.h) ---------------------------------------- */

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*const bpf_get_current_comm)(void *to, u32 size) = (void *)16;
static long (*const bpf_get_stackid)(void *ctx, void *map, u64 flags) = (void *)27;
static long (*const bpf_probe_read_user)(void *to, u32 size, const void *from) = (void *)112;
static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*const bpf_probe_read_kernel_str)(void *to, u32 size, const void *from) = (void *)115;
static long (*const bpf_ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;

#define BPF_ANY 0
#define BPF_RB_NO_WAKEUP 1

/* One hop: READ(to, pointer->member); 0 when it could be read, else @to is zeroed. */
#define READ(to, member) \
	bpf_probe_read_kernel(&(to), sizeof(to), __builtin_preserve_access_index(&(member)))

#ifndef WITHOUT_MAPS	/* set where the programs need none */

/* ---- maps -------------------------------------------------------------------------------- */

#define MAP_ARRAY 2
#define MAP_PERCPU_ARRAY 6
#define MAP_HASH 1
#define MAP_STACK_TRACE 7
#define MAP_LRU_HASH 9
#define MAP_RINGBUF 27

#define MAX_INFLIGHT 16384
#define MAX_STRINGS 8192
#define MAX_THREADS 16384
#define MAX_STACKS 4096

#define MAP_TYPE(number) int (*type)[number]
#define MAP_ENTRIES(number) int (*max_entries)[number]
#define MAP_KEY(type_name) type_name *key
#define MAP_VALUE(type_name) type_name *value

struct call_key {
	u64 thread;
	u64 kind;
};

/* What the entry of a call leaves for its return. */
struct call {
	u64 ts;
	u64 first, second, third;
};

struct comm {
	u64 words[2];
};

struct stack_frames {
	u64 address[STACK_DEPTH];
};

struct {
	MAP_TYPE(MAP_RINGBUF);
	MAP_ENTRIES(8 << 20);	/* the loader sets the size that was asked for */
} events SEC(".maps");

struct {
	MAP_TYPE(MAP_RINGBUF);
	MAP_ENTRIES(NAME_RING_BYTES);
} names SEC(".maps");

struct {
	MAP_TYPE(MAP_PERCPU_ARRAY);
	MAP_ENTRIES(KIND_SLOTS * CAUSE_SLOTS);
	MAP_KEY(u32);
	MAP_VALUE(u64);
} losses SEC(".maps");

struct {
	MAP_TYPE(MAP_HASH);
	MAP_ENTRIES(MAX_INFLIGHT);
	MAP_KEY(struct call_key);
	MAP_VALUE(struct call);
} inflight SEC(".maps");

struct {
	MAP_TYPE(MAP_LRU_HASH);
	MAP_ENTRIES(MAX_STRINGS);
	MAP_KEY(u64);
	MAP_VALUE(u64);
} strings SEC(".maps");

struct {
	MAP_TYPE(MAP_LRU_HASH);
	MAP_ENTRIES(MAX_STRINGS);
	MAP_KEY(u64);
	MAP_VALUE(u64);
} devices SEC(".maps");

struct {
	MAP_TYPE(MAP_LRU_HASH);
	MAP_ENTRIES(MAX_THREADS);
	MAP_KEY(u32);
	MAP_VALUE(struct comm);
} comms SEC(".maps");

struct {
	MAP_TYPE(MAP_ARRAY);
	MAP_ENTRIES(1);
	MAP_KEY(u32);
	MAP_VALUE(u64);
} dmabuf_fops SEC(".maps");

struct {
	MAP_TYPE(MAP_STACK_TRACE);
	MAP_ENTRIES(MAX_STACKS);
	MAP_KEY(u32);
	MAP_VALUE(struct stack_frames);
} stacks SEC(".maps");

INLINE long events_push(struct event *event)
{
	return bpf_ringbuf_output(&events, event, sizeof(*event), BPF_RB_NO_WAKEUP);
}

INLINE long names_push(struct name *name)
{
	return bpf_ringbuf_output(&names, name, sizeof(*name), BPF_RB_NO_WAKEUP);
}

INLINE u64 *losses_find(u32 index)
{
	return bpf_map_lookup_elem(&losses, &index);
}

INLINE struct call *inflight_find(struct call_key *key)
{
	return bpf_map_lookup_elem(&inflight, key);
}

INLINE long inflight_set(struct call_key *key, struct call *call)
{
	return bpf_map_update_elem(&inflight, key, call, BPF_ANY);
}

INLINE void inflight_drop(struct call_key *key)
{
	bpf_map_delete_elem(&inflight, key);
}

INLINE u64 *strings_find(u64 id)
{
	return bpf_map_lookup_elem(&strings, &id);
}

INLINE void strings_set(u64 id, u64 value)
{
	bpf_map_update_elem(&strings, &id, &value, BPF_ANY);
}

INLINE u64 *devices_find(u64 device)
{
	return bpf_map_lookup_elem(&devices, &device);
}

INLINE void devices_set(u64 device, u64 id)
{
	bpf_map_update_elem(&devices, &device, &id, BPF_ANY);
}

INLINE struct comm *comms_find(u32 tid)
{
	return bpf_map_lookup_elem(&comms, &tid);
}

INLINE void comms_set(u32 tid, struct comm *comm)
{
	bpf_map_update_elem(&comms, &tid, comm, BPF_ANY);
}

INLINE u64 *dmabuf_fops_find(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&dmabuf_fops, &zero);
}

INLINE long stacks_get(void *ctx)
{
	return bpf_get_stackid(ctx, &stacks, 0);
}

#endif /* WITHOUT_MAPS */

/* ---- programs ---------------------------------------------------------------------------- */

/*
 * PROBE(name) { body }: a program with the function's registers in @ctx. It must return 0: for a
 * kprobe any other value would also hand the event to other readers of the probe.
 */
#define PROBE(name) SEC("kprobe") int name(struct pt_regs *ctx)

static const char gpl[] SEC("license") = "GPL";

#endif
