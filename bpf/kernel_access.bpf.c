// SPDX-License-Identifier: GPL-2.0
/* The processor's access from within the kernel: brackets and kernel mappings. */

/* int dma_buf_begin_cpu_access(struct dma_buf *, enum dma_data_direction), and end */
INLINE void on_kernel_access(u32 kind, s32 ret)
{
	struct event event = { .kind = kind, .ret = ret, .stack = UNKNOWN_STACK };
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
	emit(&event, call.ts);
}

PROBE(kernel_begin_entry)
{
	call_enter(EV_KERNEL_BEGIN, ARG1(ctx), (u32)ARG2(ctx), 0);
	return 0;
}

PROBE(kernel_begin_return)
{
	on_kernel_access(EV_KERNEL_BEGIN, RETURNED(ctx));
	return 0;
}

PROBE(kernel_end_entry)
{
	call_enter(EV_KERNEL_END, ARG1(ctx), (u32)ARG2(ctx), 0);
	return 0;
}

PROBE(kernel_end_return)
{
	on_kernel_access(EV_KERNEL_END, RETURNED(ctx));
	return 0;
}

/* int dma_buf_vmap(struct dma_buf *, struct iosys_map *) and void dma_buf_vunmap(the same) */
INLINE void on_vmap(u32 kind, u64 dmabuf, u64 begin, s32 ret)
{
	struct event event = { .kind = kind, .object = dmabuf, .ret = ret, .stack = UNKNOWN_STACK };

	event.buffer = dmabuf_inode((struct dma_buf *)dmabuf);
	emit(&event, begin);
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
		on_vmap(EV_VMAP, call.first, call.ts, RETURNED(ctx));
	return 0;
}

PROBE(vunmap_entry)
{
	on_vmap(EV_VUNMAP, ARG1(ctx), 0, 0);
	return 0;
}
