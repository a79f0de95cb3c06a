/* SPDX-License-Identifier: GPL-2.0 */
/* The core dialect's access to the maps; bcc_maps.bpf.h has the same functions. */

/* Kept with the thread itself: found at once, and gone when it is. */
struct thread {
	struct comm comm;	/* as it was sent last, unless @named is 0 */
	u64 named;
};

struct {
	int (*type)[MAP_TYPE_task_storage];
	int (*map_flags)[BPF_F_NO_PREALLOC];
	s32 *key;
	struct thread *value;
} threads SEC(".maps");

INLINE long events_push(struct event *event)
{
	struct event *slot = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!slot)
		return -1;
	*slot = *event;
	bpf_ringbuf_submit(slot, BPF_RB_NO_WAKEUP);
	return 0;
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

/* Fails where there is one, or no room. */
INLINE long inflight_add(struct call_key *key, struct call *call)
{
	return bpf_map_update_elem(&inflight, key, call, BPF_NOEXIST);
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

/* What is known of this thread; where that is nothing, and @make does not help, NULL. */
INLINE struct thread *thread_now(bool make)
{
	return bpf_task_storage_get(&threads, bpf_get_current_task_btf(), 0,
				    make ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
}

/* This thread's name, into @comm->words. */
INLINE void comm_now(struct comm *comm)
{
	struct task_struct *task = bpf_get_current_task_btf();

	__builtin_memcpy(comm->words, __builtin_preserve_access_index(&task->comm),
			 sizeof(comm->words));
}

INLINE struct comm *comms_find(u32 tid)
{
	struct thread *thread = thread_now(0);

	(void)tid;
	return thread && thread->named ? &thread->comm : 0;
}

INLINE void comms_set(u32 tid, struct comm *comm)
{
	struct thread *thread = thread_now(1);

	(void)tid;
	if (!thread)
		return;
	thread->comm = *comm;
	thread->named = 1;
}

INLINE u64 *reservations_find(u64 resv)
{
	return bpf_map_lookup_elem(&reservations, &resv);
}

INLINE void reservations_set(u64 resv, u64 value)
{
	bpf_map_update_elem(&reservations, &resv, &value, BPF_ANY);
}

INLINE void reservations_drop(u64 resv)
{
	bpf_map_delete_elem(&reservations, &resv);
}

INLINE u64 *tables_find(u64 table)
{
	return bpf_map_lookup_elem(&tables, &table);
}

INLINE void tables_set(u64 table, u64 value)
{
	bpf_map_update_elem(&tables, &table, &value, BPF_ANY);
}

INLINE void tables_drop(u64 table)
{
	bpf_map_delete_elem(&tables, &table);
}

INLINE u64 *exporters_find(u64 ops)
{
	return bpf_map_lookup_elem(&exporters, &ops);
}

INLINE void exporters_set(u64 ops, u64 value)
{
	bpf_map_update_elem(&exporters, &ops, &value, BPF_ANY);
}

INLINE u64 *operations_find(u64 function)
{
	return bpf_map_lookup_elem(&operations, &function);
}

INLINE void operations_set(u64 function, u64 value)
{
	bpf_map_update_elem(&operations, &function, &value, BPF_ANY);
}

INLINE u64 *dmabuf_fops_find(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&dmabuf_fops, &zero);
}

INLINE struct config *config_find(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&configs, &zero);
}

INLINE long stacks_get(void *ctx)
{
	return bpf_get_stackid(ctx, &stacks, 0);
}

INLINE long user_stacks_get(void *ctx)
{
	return bpf_get_stackid(ctx, &user_stacks, BPF_F_USER_STACK);
}

INLINE bool matching_find(u64 buffer)
{
	return bpf_map_lookup_elem(&matching, &buffer);
}

INLINE long matching_set(u64 buffer)
{
	u64 one = 1;

	return bpf_map_update_elem(&matching, &buffer, &one, BPF_ANY);
}

INLINE void matching_drop(u64 buffer)
{
	bpf_map_delete_elem(&matching, &buffer);
}

INLINE bool watched_find(u64 buffer)
{
	return bpf_map_lookup_elem(&watched, &buffer);
}

INLINE long watched_set(u64 buffer)
{
	u64 one = 1;

	return bpf_map_update_elem(&watched, &buffer, &one, BPF_ANY);
}

INLINE void watched_drop(u64 buffer)
{
	bpf_map_delete_elem(&watched, &buffer);
}

INLINE bool pids_find(u64 pid)
{
	return bpf_map_lookup_elem(&pids, &pid);
}

INLINE long pids_set(u64 pid)
{
	u64 one = 1;

	return bpf_map_update_elem(&pids, &pid, &one, BPF_ANY);
}

INLINE void pids_drop(u64 pid)
{
	bpf_map_delete_elem(&pids, &pid);
}

/*
 * The loader runs it once: what else the first dma-buf would teach, at the cost of two more looks
 * at every other file until then.
 */
SEC("syscall") int teach(void *ctx)
{
	char symbol[] = "dma_buf_fops";
	u64 address = 0;
	u32 zero = 0;

	(void)ctx;
	if (!KNOWN_TO_KERNEL(enum bpf_func_id, BPF_FUNC_kallsyms_lookup_name))
		return 0;
	if (!bpf_kallsyms_lookup_name(symbol, sizeof(symbol), 0, &address))
		bpf_map_update_elem(&dmabuf_fops, &zero, &address, BPF_ANY);
	return 0;
}
