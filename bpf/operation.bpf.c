// SPDX-License-Identifier: GPL-2.0
/*
 * Calls into exporters. Their functions are known by their addresses in dma_buf_ops only: the first
 * buffer that shows such a table tells user space of them, which then probes them all with the same
 * two programs.
 */

/* Tell of a function, unless it is known; false where it could not be told. */
OUTLINE long learn_function(u64 function, u32 operation)
{
	struct name name = { .type = NAME_OPERATION, .id = function, .pid = operation };
	u64 *known = operations_find(function);

	if (!function || (known && *known == operation))
		return 1;
	name.ts = bpf_ktime_get_ns();
	if (names_push(&name)) {
		lose(EV_OPERATION, LOSS_STRING_LOST);
		return 0;
	}
	operations_set(function, operation);
	return 1;
}

/*
 * A module that is loaded again may have its table where it was and its functions elsewhere: the
 * one that every exporter must have tells.
 */
OUTLINE void learn_exporter(struct dma_buf_ops *ops)
{
	u64 map = 0, function = 0, *known;
	long told = 1;

	READ(map, ops->map_dma_buf);
	known = exporters_find((u64)ops);
	if (known && *known == map)
		return;
	READ(function, ops->attach);
	told &= learn_function(function, OPERATION_ATTACH);
	READ(function, ops->detach);
	told &= learn_function(function, OPERATION_DETACH);
	READ(function, ops->pin);
	told &= learn_function(function, OPERATION_PIN);
	READ(function, ops->unpin);
	told &= learn_function(function, OPERATION_UNPIN);
	told &= learn_function(map, OPERATION_MAP);
	READ(function, ops->unmap_dma_buf);
	told &= learn_function(function, OPERATION_UNMAP);
	READ(function, ops->begin_cpu_access);
	told &= learn_function(function, OPERATION_BEGIN);
	READ(function, ops->end_cpu_access);
	told &= learn_function(function, OPERATION_END);
	READ(function, ops->mmap);
	told &= learn_function(function, OPERATION_MMAP);
	READ(function, ops->vmap);
	told &= learn_function(function, OPERATION_VMAP);
	READ(function, ops->vunmap);
	told &= learn_function(function, OPERATION_VUNMAP);
	if (told)
		exporters_set((u64)ops, map);
}

/* What a buffer's own address leads to, when it comes into sight. */
INLINE void learn_buffer(struct dma_buf *dmabuf, u64 inode)
{
	struct dma_buf_ops *ops = 0;

	learn_reservation(dmabuf, inode);
	if (!observed(EV_OPERATION))
		return;
	READ(ops, dmabuf->ops);
	learn_exporter(ops);
}

/* Which operation is the function that the probe is on? 0: none that is known. */
INLINE u32 operation_here(void *ctx)
{
	u64 *operation = operations_find(bpf_get_func_ip(ctx));

	return operation ? *operation : 0;
}

/* An exporter that passes its buffer on may be in several operations on one thread. */
INLINE struct call_key operation_key(u32 operation)
{
	struct call_key key = key_of(EV_OPERATION);

	key.operation = operation;
	return key;
}

PROBE(operation_entry)
{
	u32 operation = operation_here(ctx);
	struct call_key key = operation_key(operation);
	struct call call = { .first = ARG1(ctx) };

	if (operation)
		call_enter_as(&key, &call);
	return 0;
}

INLINE void on_operation(void *ctx, u32 operation, struct call *call, u64 returned)
{
	struct event event = { .kind = EV_OPERATION, .object = call->first, .detail = operation };
	struct dma_buf_attachment *attachment = (void *)call->first;
	struct dma_buf *dmabuf = (void *)call->first;

	switch (operation) {
	case OPERATION_MAP:
		event.ret = returned ? pointer_error(returned) : -ENOMEM;
		break;
	case OPERATION_DETACH:	/* these return nothing */
	case OPERATION_UNPIN:
	case OPERATION_UNMAP:
	case OPERATION_VUNMAP:
		break;
	default:
		event.ret = returned;
	}
	switch (operation) {
	case OPERATION_PIN:
	case OPERATION_UNPIN:
	case OPERATION_MAP:
	case OPERATION_UNMAP:
		READ(dmabuf, attachment->dmabuf);
	}
	event.buffer = dmabuf_inode(dmabuf);
	emit(ctx, &event, call->ts);
}

PROBE(operation_return)
{
	u32 operation = operation_here(ctx);
	struct call_key key = operation_key(operation);
	struct call call;

	if (operation && call_return_as(&key, &call))
		on_operation(ctx, operation, &call, RETURNED(ctx));
	return 0;
}
