// SPDX-License-Identifier: GPL-2.0
/* A buffer's life: export and release. */

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
	}
	event.stack = kernel_stack(ctx, EV_EXPORT);
	emit(&event, call->ts);
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
INLINE void on_get(struct call *call, u64 returned)
{
	struct event event = {
		.kind = EV_GET,
		.detail = call->first,
		.ret = pointer_error(returned),
		.stack = UNKNOWN_STACK,
	};

	if (!event.ret) {
		event.object = returned;
		event.buffer = dmabuf_inode((struct dma_buf *)returned);
	}
	emit(&event, call->ts);
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
		on_get(&call, RETURNED(ctx));
	return 0;
}

/* void dma_buf_invalidate_mappings(struct dma_buf *), up to 7.0 dma_buf_move_notify() */
PROBE(move_entry)
{
	struct event event = { .kind = EV_MOVE, .stack = UNKNOWN_STACK };

	event.object = ARG1(ctx);
	event.buffer = dmabuf_inode((struct dma_buf *)event.object);
	emit(&event, 0);
	return 0;
}

/* int dma_buf_file_release(struct inode *, struct file *): the last moment with a valid inode */
INLINE void on_release(struct inode *inode, struct file *file)
{
	struct event event = { .kind = EV_RELEASE, .stack = UNKNOWN_STACK };
	unsigned long number = 0;

	READ(event.object, file->private_data);
	if (!event.object)
		return;	/* a failed export gives its file back: there was no buffer */
	READ(number, inode->i_ino);
	event.buffer = number;
	emit(&event, 0);
}

PROBE(release_entry)
{
	on_release((struct inode *)ARG1(ctx), (struct file *)ARG2(ctx));
	return 0;
}
