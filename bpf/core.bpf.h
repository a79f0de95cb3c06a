/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The core dialect: an object compiled ahead, for libbpf to relocate against the running kernel's
 * BTF. Kernel structs name only the members that are read. With -DFENTRY the probes are programs
 * for fentry and fexit, else for kprobes; everything else is the same.
 */
#ifndef DMABUF_TRACE_CORE_H
#define DMABUF_TRACE_CORE_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef short s16;
typedef int s32;
typedef long long s64;
typedef _Bool bool;

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

/* Pointers that are compared or passed on, never followed, are void pointers. */
struct dma_buf_ops {
	void *attach, *detach, *pin, *unpin, *map_dma_buf, *unmap_dma_buf;
	void *begin_cpu_access, *end_cpu_access, *mmap, *vmap, *vunmap;
} KERNEL_STRUCT;

struct dma_buf {
	u64 size;
	struct file *file;
	struct dma_buf_ops *ops;
	const char *exp_name;
	const char *name;
	void *resv;	/* struct dma_resv, whose first member is its lock */
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

struct dma_buf_attach_ops {
	bool allow_peer2peer;
} KERNEL_STRUCT;

struct dma_buf_attachment {
	struct dma_buf *dmabuf;
	struct device *dev;
	void *sgt;	/* the mapping that the core keeps; up to 6.15 */
	bool peer2peer;
	const void *importer_ops;
} KERNEL_STRUCT;

struct sg_table {
	u32 nents;
} KERNEL_STRUCT;

struct dma_fence {
	u64 context;
	u64 seqno;
} KERNEL_STRUCT;

struct poll_table_struct {
	u32 _key;
} KERNEL_STRUCT;

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	struct file *vm_file;
} KERNEL_STRUCT;

struct fdtable {
	struct file **fd;
	unsigned long *open_fds;
} KERNEL_STRUCT;

struct files_struct {
	struct fdtable *fdt;
} KERNEL_STRUCT;

struct live_threads {
	int counter;
} KERNEL_STRUCT;

struct signal_struct {
	struct live_threads live;
} KERNEL_STRUCT;

struct task_struct {
	u32 flags;
	s32 tgid;
	struct task_struct *group_leader;
	struct files_struct *files;
	struct signal_struct *signal;
	char comm[16];
} KERNEL_STRUCT;

/* ---- helpers (numbers: include/uapi/linux/bpf.h) ---------------------------------------- */

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*const bpf_get_stackid)(void *ctx, void *map, u64 flags) = (void *)27;
static u64 (*const bpf_get_current_task)(void) = (void *)35;
static long (*const bpf_get_stack)(void *ctx, void *to, u32 size, u64 flags) = (void *)67;
static u64 (*const bpf_get_current_cgroup_id)(void) = (void *)80;
static long (*const bpf_probe_read_user)(void *to, u32 size, const void *from) = (void *)112;
static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*const bpf_probe_read_kernel_str)(void *to, u32 size, const void *from) = (void *)115;
static long (*const bpf_ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static void *(*const bpf_ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;
static void *(*const bpf_task_storage_get)(void *map, struct task_struct *task, void *value,
					   u64 flags) = (void *)156;
static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;
static u64 (*const bpf_get_func_ip)(void *ctx) = (void *)173;
static long (*const bpf_kallsyms_lookup_name)(const char *name, s32 size, s32 flags,
					      u64 *address) = (void *)179;
static long (*const bpf_loop)(u32 count, void *call, void *ctx, u64 flags) = (void *)181;
static long (*const bpf_get_func_ret)(void *ctx, u64 *value) = (void *)184;

#define BPF_ANY 0
#define BPF_NOEXIST 1
#define BPF_F_USER_STACK 256
#define BPF_RB_NO_WAKEUP 1
#define EEXIST 17
#define EFAULT 14
#define BPF_F_NO_PREALLOC 1
#define BPF_LOCAL_STORAGE_GET_F_CREATE 1

/* ---- reads ------------------------------------------------------------------------------- */

/*
 * A pointer that the verifier takes for one to a kernel struct is dereferenced by a plain load,
 * whose fault the kernel handles and makes 0: ten instructions instead of the hundred of
 * bpf_probe_read_kernel(). Any struct does that begins with a word.
 */
struct timespec64 {
	s64 tv_sec;
};

extern void *bpf_rdonly_cast(const void *object, u32 type) __attribute__((section(".ksyms"), weak));

/* The verifier's list of functions that it knows itself; this one is there from 6.2 on. */
enum special_kfunc_type {
	KF_bpf_rdonly_cast = 1,
};

enum bpf_func_id {
	BPF_FUNC_kallsyms_lookup_name = 179,
};

#define TYPE_ID_IN_KERNEL 1
#define KNOWN_TO_KERNEL(type, value) __builtin_preserve_enum_value(*(type *)value, 0)

INLINE void read_kernel(void *to, u32 size, const void *from)
{
	struct timespec64 *words;

	if (!KNOWN_TO_KERNEL(enum special_kfunc_type, KF_bpf_rdonly_cast)) {
		bpf_probe_read_kernel(to, size, from);
		return;
	}
	words = bpf_rdonly_cast(from, __builtin_btf_type_id(*(struct timespec64 *)0,
							    TYPE_ID_IN_KERNEL));
	__builtin_memcpy(to, words, size);
}

#define READ(to, member) \
	read_kernel(&(to), sizeof(to), __builtin_preserve_access_index(&(member)))

/* Does this kernel's struct have the member? What is read where it hasn't is never run. */
#define FIELD_EXISTS 2
#define FIELD_BYTE_OFFSET 0
#define HAS(member) __builtin_preserve_field_info(member, FIELD_EXISTS)

/* Does the core keep mappings with attachments? Then a failing attach may detach by itself. */
INLINE bool keeps_tables(struct dma_buf_attachment *attachment)
{
	return HAS(attachment->sgt);
}

/* The mapping that the core keeps with an attachment, to hand it out again; 0: none. */
INLINE u64 kept_table(struct dma_buf_attachment *attachment)
{
	u64 table = 0;

	if (keeps_tables(attachment))
		READ(table, attachment->sgt);
	return table;
}

/* ---- programs: what a probe finds in its context ---------------------------------------- */

#ifdef FENTRY

/* Words: the arguments in order. The loader makes a return's program one for fexit. */
#define PROBE(name) SEC("fentry") int name(u64 *ctx)
#define ARG1(ctx) ((ctx)[0])
#define ARG2(ctx) ((ctx)[1])
#define ARG3(ctx) ((ctx)[2])
#define ARG4(ctx) ((ctx)[3])

INLINE u64 RETURNED(u64 *ctx)
{
	u64 value = 0;

	bpf_get_func_ret(ctx, &value);
	return value;
}

#else

#define PROBE(name) SEC("kprobe") int name(struct pt_regs *ctx)

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#define ARG1(ctx) ((ctx)->di)
#define ARG2(ctx) ((ctx)->si)
#define ARG3(ctx) ((ctx)->dx)
#define ARG4(ctx) ((ctx)->cx)
#define RETURNED(ctx) ((ctx)->ax)
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	unsigned long regs[31];
	unsigned long sp, pc, pstate;
};
#define ARG1(ctx) ((ctx)->regs[0])
#define ARG2(ctx) ((ctx)->regs[1])
#define ARG3(ctx) ((ctx)->regs[2])
#define ARG4(ctx) ((ctx)->regs[3])
#define RETURNED(ctx) ((ctx)->regs[0])
#else
#error "no argument registers for this architecture: add them here"
#endif

#endif /* FENTRY */

#define TRACEPOINT(name) SEC("raw_tp") int name(u64 *ctx)
#define TP_ARG(ctx, number) ((ctx)[number])

/* ---- maps --------------------------------------------------------------------------------- */

#define MAP_TYPE_hash 1
#define MAP_TYPE_array 2
#define MAP_TYPE_percpu_array 6
#define MAP_TYPE_stacktrace 7
#define MAP_TYPE_lru_hash 9
#define MAP_TYPE_ringbuf 27
#define MAP_TYPE_task_storage 29
#define BPF_F_MMAPABLE 1024

#define MAP(map_type, key_type, value_type, name, entries) \
	struct { \
		int (*type)[MAP_TYPE_##map_type]; \
		int (*max_entries)[entries]; \
		key_type *key; \
		value_type *value; \
	} name SEC(".maps")

/* An array that the loader maps into its memory, and reads there: see loader/counters.py. */
#define SHOWN_ARRAY(value_type, name, entries) \
	struct { \
		int (*type)[MAP_TYPE_array]; \
		int (*max_entries)[entries]; \
		int (*map_flags)[BPF_F_MMAPABLE]; \
		u32 *key; \
		value_type *value; \
	} name SEC(".maps")

#define RING(name, bytes) \
	struct { \
		int (*type)[MAP_TYPE_ringbuf]; \
		int (*max_entries)[bytes]; \
	} name SEC(".maps")

#define EVENT_RING_BYTES (8 << 20)	/* the loader sets the size that was asked for */

static const char gpl[] SEC("license") = "GPL";

#endif
