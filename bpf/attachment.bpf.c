// SPDX-License-Identifier: GPL-2.0
/* Importers: attach, detach, map, unmap. */

/*
 * struct dma_buf_attachment *dma_buf_dynamic_attach(struct dma_buf *, struct device *,
 *						     const struct dma_buf_attach_ops *, void *)
 * @call: dmabuf, device, importer_ops.
 */
INLINE void on_attach(void *ctx, struct call *call, u64 returned)
{
	struct event event = { .kind = EV_ATTACH, .ret = pointer_error(returned) };
	struct dma_buf_attachment *attachment = (void *)returned;
	const struct dma_buf_attach_ops *importer_ops = (void *)call->third;
	bool allowed = 0, peer2peer = 0;

	event.buffer = dmabuf_inode((struct dma_buf *)call->first);
	learn_buffer((struct dma_buf *)call->first, event.buffer);
	event.value = call->second;
	event.aux = intern_device((struct device *)call->second, EV_ATTACH);
	if (importer_ops) {
		READ(allowed, importer_ops->allow_peer2peer);
		event.detail |= ATTACH_DYNAMIC;
		event.detail |= allowed ? ATTACH_P2P_ASKED : ATTACH_P2P_NOT_ASKED;
	}
	if (!event.ret) {
		event.object = returned;
		READ(peer2peer, attachment->peer2peer);
		if (peer2peer)
			event.detail |= ATTACH_PEER2PEER;
	}
	emit(ctx, &event, call->ts);
}

PROBE(attach_entry)
{
	call_enter(EV_ATTACH, ARG1(ctx), ARG2(ctx), ARG3(ctx));
	return 0;
}

PROBE(attach_return)
{
	struct call call;

	if (call_return(EV_ATTACH, &call))
		on_attach(ctx, &call, RETURNED(ctx));
	return 0;
}

/* Fill in what an attachment tells: its buffer and its device. */
INLINE void describe(struct event *event, struct dma_buf_attachment *attachment)
{
	struct dma_buf *dmabuf = 0;
	struct device *device = 0;

	READ(dmabuf, attachment->dmabuf);
	READ(device, attachment->dev);
	event->object = (u64)attachment;
	event->buffer = dmabuf_inode(dmabuf);
	if (event->kind == EV_MAP)
		learn_buffer(dmabuf, event->buffer);
	event->aux = device_id(device, event->kind);
}

/*
 * Is this the detach on the error path of dma_buf_dynamic_attach(), of an attachment that nobody
 * ever had? Up to 6.15 that maps at once where only one of importer and exporter is dynamic, and
 * keeps the mapping until the detach; it is not there only if it was this that failed.
 */
INLINE bool never_attached(struct dma_buf *dmabuf, struct dma_buf_attachment *attachment)
{
	const void *importer_ops = 0;
	struct dma_buf_ops *ops = 0;
	u64 pin = 0;

	if (!keeps_tables(attachment) || kept_table(attachment))
		return 0;
	READ(importer_ops, attachment->importer_ops);
	READ(ops, dmabuf->ops);
	READ(pin, ops->pin);
	return !importer_ops != !pin;
}

/* void dma_buf_detach(struct dma_buf *, struct dma_buf_attachment *) */
INLINE void on_detach(void *ctx, struct dma_buf *dmabuf, struct dma_buf_attachment *attachment)
{
	struct event event = { .kind = EV_DETACH };

	if (never_attached(dmabuf, attachment))
		return;
	describe(&event, attachment);
	emit(ctx, &event, 0);
}

PROBE(detach_entry)
{
	on_detach(ctx, (struct dma_buf *)ARG1(ctx), (struct dma_buf_attachment *)ARG2(ctx));
	return 0;
}

/*
 * TP_PROTO(struct dma_buf *, struct dma_buf_attachment *, bool is_dynamic, struct device *), 7.0+.
 * Between the exporter's detach and the kfree() of the attachment: its address is not used again
 * before. A call that the kernel refuses with a warning, for a buffer that the attachment does not
 * belong to, detaches nothing and does not come here.
 */
TRACEPOINT(detach_point)
{
	on_detach(ctx, (struct dma_buf *)TP_ARG(ctx, 0), (struct dma_buf_attachment *)TP_ARG(ctx, 1));
	return 0;
}

/* struct sg_table *dma_buf_map_attachment(struct dma_buf_attachment *, enum dma_data_direction) */
INLINE void on_map(void *ctx, struct call *call, u64 returned)
{
	struct event event = {
		.kind = EV_MAP,
		.ret = pointer_error(returned),
		.detail = call->second,
	};
	struct sg_table *table = (void *)returned;
	u32 entries = 0;

	describe(&event, (struct dma_buf_attachment *)call->first);
	if (!event.ret) {
		event.value = returned;
		READ(entries, table->nents);
		if (entries > MAX_ENTRIES)
			entries = MAX_ENTRIES;
		event.detail |= entries << MAP_ENTRIES_SHIFT;
		if (call->third == returned)
			event.detail |= MAP_CACHED;
	}
	emit(ctx, &event, call->ts);
}

/* Up to 6.1 an importer may call without the lock: what was kept is known at the entry only. */
PROBE(map_entry)
{
	call_enter(EV_MAP, ARG1(ctx), (u32)ARG2(ctx),
		   kept_table((struct dma_buf_attachment *)ARG1(ctx)));
	return 0;
}

PROBE(map_return)
{
	struct call call;

	if (call_return(EV_MAP, &call))
		on_map(ctx, &call, RETURNED(ctx));
	return 0;
}

/*
 * void dma_buf_unmap_attachment(struct dma_buf_attachment *, struct sg_table *,
 *				 enum dma_data_direction)
 */
INLINE void on_unmap(void *ctx, struct dma_buf_attachment *attachment, u64 table, u32 direction)
{
	struct event event = {
		.kind = EV_UNMAP,
		.value = table,
		.detail = direction,
	};

	if (table && kept_table(attachment) == table)
		event.detail |= MAP_CACHED;
	describe(&event, attachment);
	emit(ctx, &event, 0);
}

PROBE(unmap_entry)
{
	on_unmap(ctx, (struct dma_buf_attachment *)ARG1(ctx), ARG2(ctx), ARG3(ctx));
	return 0;
}

/* int dma_buf_pin(struct dma_buf_attachment *) */
INLINE void on_pin(void *ctx, u32 kind, struct dma_buf_attachment *attachment, u64 begin, s32 ret)
{
	struct event event = { .kind = kind, .ret = ret };

	describe(&event, attachment);
	emit(ctx, &event, begin);
}

PROBE(pin_entry)
{
	call_enter(EV_PIN, ARG1(ctx), 0, 0);
	return 0;
}

PROBE(pin_return)
{
	struct call call;

	if (call_return(EV_PIN, &call))
		on_pin(ctx, EV_PIN, (struct dma_buf_attachment *)call.first, call.ts, RETURNED(ctx));
	return 0;
}

/* void dma_buf_unpin(struct dma_buf_attachment *) */
PROBE(unpin_entry)
{
	on_pin(ctx, EV_UNPIN, (struct dma_buf_attachment *)ARG1(ctx), 0, 0);
	return 0;
}
