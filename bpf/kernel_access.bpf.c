// SPDX-License-Identifier: GPL-2.0
/* The processor's access: brackets and mappings of drivers, and who asks whether it may begin. */

/* int dma_buf_begin_cpu_access(struct dma_buf *, enum dma_data_direction), and end */
INLINE void on_kernel_access(void *ctx, u32 kind, s32 ret)
{
	struct event event = { .kind = kind, .ret = ret };
	struct dma_buf *dmabuf;
	struct file *file = 0;
	struct call call;

	if (!call_return(kind, &call))
		return;
	dmabuf = (struct dma_buf *)call.first;
	READ(file, dmabuf->file);
	if (call_under_way(EV_CPU_BEGIN, (u64)file))
		return;	/* called by the ioctl, which is an event of its own */
	event.buffer = dmabuf_inode(dmabuf);
	event.detail = call.second;
	emit(ctx, &event, call.ts);
}

PROBE(kernel_begin_entry)
{
	call_enter(EV_KERNEL_BEGIN, ARG1(ctx), (u32)ARG2(ctx), 0);
	return 0;
}

PROBE(kernel_begin_return)
{
	on_kernel_access(ctx, EV_KERNEL_BEGIN, RETURNED(ctx));
	return 0;
}

PROBE(kernel_end_entry)
{
	call_enter(EV_KERNEL_END, ARG1(ctx), (u32)ARG2(ctx), 0);
	return 0;
}

PROBE(kernel_end_return)
{
	on_kernel_access(ctx, EV_KERNEL_END, RETURNED(ctx));
	return 0;
}

/* int dma_buf_vmap(struct dma_buf *, struct iosys_map *) and void dma_buf_vunmap(the same) */
INLINE void on_vmap(void *ctx, u32 kind, u64 dmabuf, u64 begin, s32 ret)
{
	struct event event = { .kind = kind, .object = dmabuf, .ret = ret };

	event.buffer = dmabuf_inode((struct dma_buf *)dmabuf);
	emit(ctx, &event, begin);
}

PROBE(vmap_entry)
{
	call_enter(EV_VMAP, ARG1(ctx), 0, 0);
	return 0;
}

PROBE(vmap_return)
{
	struct call call;

	if (call_return(EV_VMAP, &call))
		on_vmap(ctx, EV_VMAP, call.first, call.ts, RETURNED(ctx));
	return 0;
}

PROBE(vunmap_entry)
{
	on_vmap(ctx, EV_VUNMAP, ARG1(ctx), 0, 0);
	return 0;
}

/* __poll_t dma_buf_poll(struct file *, poll_table *) */
INLINE void on_poll(void *ctx, struct call *call, u32 returned)
{
	struct event event = { .kind = EV_POLL, .object = call->first, .detail = returned };

	event.value = call->second;
	event.buffer = file_inode((struct file *)call->first);
	emit(ctx, &event, call->ts);
}

PROBE(poll_entry)
{
	struct poll_table_struct *table = (void *)ARG2(ctx);
	u32 events = 0;

	READ(events, table->_key);
	call_enter(EV_POLL, ARG1(ctx), (u16)events, 0);
	return 0;
}

PROBE(poll_return)
{
	struct call call;

	if (call_return(EV_POLL, &call))
		on_poll(ctx, &call, RETURNED(ctx));
	return 0;
}
