// SPDX-License-Identifier: GPL-2.0
/*
 * Snapshots: iterators over live buffers, and over the fds and VMAs that hold them. Each writes one
 * fixed-size record per hit. An object of their own, so that a kernel which lacks one of them loses
 * nothing else. Reading takes a reference of the look's own to the file it stands on: not counted.
 */
#define WITHOUT_MAPS
#include "dialect.bpf.h"

#define DMA_BUF_MAGIC 0x444d4142	/* include/uapi/linux/magic.h: "DMAB" */

static long (*const bpf_seq_write)(void *seq, const void *data, u32 size) = (void *)127;

/* ---- contexts: a fixed layout, pointers padded to 64 bits (kernel: __bpf_md_ptr) ------------ */

#define POINTER(type_name, name) type_name *name __attribute__((aligned(8)))

struct bpf_iter_meta {
	POINTER(void, seq);
};

struct dmabuf_context {
	POINTER(struct bpf_iter_meta, meta);
	POINTER(struct dma_buf, dmabuf);
};

struct task_file_context {
	POINTER(struct bpf_iter_meta, meta);
	POINTER(struct task_struct, task);
	u32 fd __attribute__((aligned(8)));
	POINTER(struct file, file);
};

struct task_vma_context {
	POINTER(struct bpf_iter_meta, meta);
	POINTER(struct task_struct, task);
	POINTER(struct vm_area_struct, vma);
};

/* ---- what is read --------------------------------------------------------------------------- */

INLINE u64 references(struct file *file)
{
	if (HAS(file->f_ref))
		return file->f_ref.refcnt.counter + 1;
	return file->f_count.counter;
}

INLINE bool is_dmabuf(struct file *file)
{
	return file->f_inode->i_sb->s_magic == DMA_BUF_MAGIC;
}

/* The name may change meanwhile, its lock can't be taken here: at worst it reads as mixed. */
INLINE void describe(struct dma_buf *dmabuf, u64 *size, char *exporter, char *name)
{
	const char *text = 0;

	READ(*size, dmabuf->size);
	READ(text, dmabuf->exp_name);
	if (text)
		bpf_probe_read_kernel_str(exporter, sizeof(((struct found *)0)->exporter), text);
	READ(text, dmabuf->name);
	if (text)
		bpf_probe_read_kernel_str(name, sizeof(((struct found *)0)->name), text);
}

INLINE void hold(struct held *held, struct task_struct *task, struct file *file)
{
	held->buffer = file->f_inode->i_ino;
	held->references = references(file);
	held->pid = task->tgid;
	/* a thread with files of its own speaks for its process */
	bpf_probe_read_kernel_str(held->comm, sizeof(held->comm), task->group_leader->comm);
	describe(file->private_data, &held->size, held->exporter, held->name);
}

/* ---- programs ------------------------------------------------------------------------------- */

/* The context's pointers are NULL on the last call, which comes after the last object. */

SEC("iter/dmabuf") int live_buffers(struct dmabuf_context *ctx)
{
	struct dma_buf *dmabuf = ctx->dmabuf;
	struct found found = {};

	if (!dmabuf)
		return 0;
	found.buffer = dmabuf->file->f_inode->i_ino;
	found.references = references(dmabuf->file) - 1;
	describe(dmabuf, &found.size, found.exporter, found.name);
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
	return 0;
}

SEC("iter/task_file") int held_fds(struct task_file_context *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct held held = {};

	if (!task || !file || !is_dmabuf(file))
		return 0;
	held.fd = ctx->fd;
	held.table = (u64)task->files;
	hold(&held, task, file);
	held.references -= 1;
	bpf_seq_write(ctx->meta->seq, &held, sizeof(held));
	return 0;
}

SEC("iter/task_vma") int held_vmas(struct task_vma_context *ctx)
{
	struct task_struct *task = ctx->task;
	struct vm_area_struct *vma = ctx->vma;
	struct held held = {};
	struct file *file;

	if (!task || !vma)
		return 0;
	file = vma->vm_file;
	if (!file || !is_dmabuf(file))
		return 0;
	held.fd = -1;
	held.start = vma->vm_start;
	held.length = vma->vm_end - vma->vm_start;
	hold(&held, task, file);
	bpf_seq_write(ctx->meta->seq, &held, sizeof(held));
	return 0;
}
