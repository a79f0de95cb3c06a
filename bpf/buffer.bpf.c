// SPDX-License-Identifier: GPL-2.0
/* A buffer's life: export and release. */

/* What holder.bpf.c tells a dma-buf's file by: here is one for certain. */
INLINE void learn_fops(struct dma_buf *dmabuf)
{
	u64 *known = dmabuf_fops_find(), fops = 0;
	struct file *file = 0;

	READ(file, dmabuf->file);
	READ(fops, file->f_op);
	if (known && *known != fops)
		*known = fops;
}

INLINE void on_export(void *ctx, struct call *call, u64 returned)
{
	struct dma_buf_export_info *info = (void *)call->first;
	struct event event = { .kind = EV_EXPORT, .ret = pointer_error(returned) };
	const char *exporter = 0;
	int flags = 0;

	/* the caller's frame holds the info until after the return */
	READ(event.value, info->size);
	READ(flags, info->flags);
	READ(exporter, info->exp_name);
	event.detail = flags;
	event.aux = intern_text(exporter, NAME_EXPORTER, EV_EXPORT);
	if (!event.ret) {
		event.object = returned;
		event.buffer = dmabuf_inode((struct dma_buf *)returned);
		learn_buffer((struct dma_buf *)returned, event.buffer);
		learn_fops((struct dma_buf *)returned);
	}
	emit(ctx, &event, call->ts);
}

PROBE(export_entry)
{
	call_enter(EV_EXPORT, ARG1(ctx), 0, 0);
	return 0;
}

PROBE(export_return)
{
	struct call call;

	if (call_return(EV_EXPORT, &call))
		on_export(ctx, &call, RETURNED(ctx));
	return 0;
}

/* struct dma_buf *dma_buf_get(int fd) */
INLINE void on_get(void *ctx, struct call *call, u64 returned)
{
	struct event event = {
		.kind = EV_GET,
		.detail = call->first,
		.ret = pointer_error(returned),
	};

	if (!event.ret) {
		event.object = returned;
		event.buffer = dmabuf_inode((struct dma_buf *)returned);
	}
	emit(ctx, &event, call->ts);
}

PROBE(get_entry)
{
	call_enter(EV_GET, (u32)ARG1(ctx), 0, 0);
	return 0;
}

PROBE(get_return)
{
	struct call call;

	if (call_return(EV_GET, &call))
		on_get(ctx, &call, RETURNED(ctx));
	return 0;
}

/* void dma_buf_invalidate_mappings(struct dma_buf *), up to 7.0 dma_buf_move_notify() */
PROBE(move_entry)
{
	struct event event = { .kind = EV_MOVE };

	event.object = ARG1(ctx);
	event.buffer = dmabuf_inode((struct dma_buf *)event.object);
	emit(ctx, &event, 0);
	return 0;
}

#define PF_WQ_WORKER 0x00000020	/* include/linux/sched.h */
#define PF_KTHREAD 0x00200000
#define RELEASE_DEPTH 8	/* of __fput()'s caller is the third frame or so */

/* Where the last reference was dropped: task work is told by its function among the callers. */
INLINE u32 release_context(void *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct config *config = config_find();
	u64 callers[RELEASE_DEPTH] = {};
	u32 flags = 0, i;

	READ(flags, task->flags);
	if (flags & PF_WQ_WORKER)
		return CONTEXT_KERNEL_WORKER;
	if (flags & PF_KTHREAD)
		return CONTEXT_KERNEL_THREAD;
	if (!config || !config->task_work_begin)
		return CONTEXT_UNKNOWN;
	if (bpf_get_stack(ctx, callers, sizeof(callers), 0) < 0)
		return CONTEXT_UNKNOWN;
#pragma unroll
	for (i = 0; i < RELEASE_DEPTH; i++)
		if (callers[i] > config->task_work_begin && callers[i] <= config->task_work_end)
			return CONTEXT_TASK_WORK;
	return CONTEXT_TASK;
}

/* int dma_buf_file_release(struct inode *, struct file *): the last moment with a valid inode */
INLINE void on_release(void *ctx, struct inode *inode, struct file *file)
{
	struct event event = { .kind = EV_RELEASE };
	unsigned long number = 0;

	READ(event.object, file->private_data);
	if (!event.object)
		return;	/* a failed export gives its file back: there was no buffer */
	READ(number, inode->i_ino);
	event.buffer = number;
	event.detail = release_context(ctx);
	forget_buffer((struct dma_buf *)event.object, number);
	emit(ctx, &event, 0);
}

PROBE(release_entry)
{
	on_release(ctx, (struct inode *)ARG1(ctx), (struct file *)ARG2(ctx));
	return 0;
}
