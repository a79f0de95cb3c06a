/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The bcc dialect: compiled on the machine that is traced, against its kernel headers, which
 * bring types, structs and helpers. bcc takes the functions of the text itself for programs, so
 * all sources reach it as one text.
 */
#ifndef DMABUF_TRACE_BCC_H
#define DMABUF_TRACE_BCC_H

#include <uapi/linux/ptrace.h>
#include <linux/version.h>
#include <linux/sched.h>
#include <linux/fs.h>
#include <linux/fdtable.h>
#include <linux/poll.h>
#include <linux/mm_types.h>
#include <linux/device.h>
#include <linux/scatterlist.h>
#include <linux/dma-fence.h>
#include <linux/errno.h>
#include <linux/sched/signal.h>
#include <linux/dma-buf.h>

#define INLINE static inline __attribute__((always_inline))
#define OUTLINE INLINE		/* bcc loads each function alone: there are no calls */

/* Names that the kernel's headers give to something else. */
#undef READ
#define file_inode file_inode_number

#define READ(to, member) bpf_probe_read_kernel(&(to), sizeof(to), &(member))

/*
 * Does the core keep mappings with attachments? Then a failing attach may detach by itself. A header
 * can't be asked for a member: 6.16 took it away.
 */
INLINE bool keeps_tables(struct dma_buf_attachment *attachment)
{
	(void)attachment;
	return LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0);
}

/* The mapping that the core keeps with an attachment, to hand it out again; 0: none. */
INLINE u64 kept_table(struct dma_buf_attachment *attachment)
{
	u64 table = 0;

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
	READ(table, attachment->sgt);
#endif
	return table;
}

/* ---- programs ------------------------------------------------------------------------------ */

#define PROBE(name) int name(struct pt_regs *ctx)
#define ARG1(ctx) PT_REGS_PARM1(ctx)
#define ARG2(ctx) PT_REGS_PARM2(ctx)
#define ARG3(ctx) PT_REGS_PARM3(ctx)
#define ARG4(ctx) PT_REGS_PARM4(ctx)
#define RETURNED(ctx) PT_REGS_RC(ctx)

#define TRACEPOINT(name) int name(struct bpf_raw_tracepoint_args *ctx)
#define TP_ARG(ctx, number) ((ctx)->args[number])

/* ---- maps ------------------------------------------------------------------------------------ */

#define MAP(map_type, key_type, value_type, name, entries) \
	BPF_TABLE(#map_type, key_type, value_type, name, entries)
#define SHOWN_ARRAY(value_type, name, entries) \
	BPF_F_TABLE("array", u32, value_type, name, entries, BPF_F_MMAPABLE)
#define RING(name, bytes) BPF_RINGBUF_OUTPUT(name, (bytes) / RING_PAGE_BYTES)

#endif
