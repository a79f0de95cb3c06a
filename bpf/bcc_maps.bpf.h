/* SPDX-License-Identifier: GPL-2.0 */
/* The bcc dialect's access to the maps: methods, which bcc rewrites, and not within macros. */

INLINE long events_push(struct event *event)
{
	return events.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP);
}

INLINE long names_push(struct name *name)
{
	return names.ringbuf_output(name, sizeof(*name), BPF_RB_NO_WAKEUP);
}

INLINE u64 *losses_find(u32 index)
{
	return losses.lookup(&index);
}

INLINE struct call *inflight_find(struct call_key *key)
{
	return inflight.lookup(key);
}

INLINE long inflight_add(struct call_key *key, struct call *call)
{
	return inflight.insert(key, call);
}

INLINE long inflight_set(struct call_key *key, struct call *call)
{
	return inflight.update(key, call);
}

INLINE void inflight_drop(struct call_key *key)
{
	inflight.delete(key);
}

INLINE u64 *strings_find(u64 id)
{
	return strings.lookup(&id);
}

INLINE void strings_set(u64 id, u64 value)
{
	strings.update(&id, &value);
}

INLINE u64 *devices_find(u64 device)
{
	return devices.lookup(&device);
}

INLINE void devices_set(u64 device, u64 id)
{
	devices.update(&device, &id);
}

#define MAX_THREADS 16384

MAP(lru_hash, u32, struct comm, comms, MAX_THREADS);

/* This thread's name, into @comm->words. */
INLINE void comm_now(struct comm *comm)
{
	bpf_get_current_comm(comm->words, sizeof(comm->words));
}

INLINE struct comm *comms_find(u32 tid)
{
	return comms.lookup(&tid);
}

INLINE void comms_set(u32 tid, struct comm *comm)
{
	comms.update(&tid, comm);
}

INLINE u64 *reservations_find(u64 resv)
{
	return reservations.lookup(&resv);
}

INLINE void reservations_set(u64 resv, u64 value)
{
	reservations.update(&resv, &value);
}

INLINE void reservations_drop(u64 resv)
{
	reservations.delete(&resv);
}

INLINE u64 *tables_find(u64 table)
{
	return tables.lookup(&table);
}

INLINE void tables_set(u64 table, u64 value)
{
	tables.update(&table, &value);
}

INLINE void tables_drop(u64 table)
{
	tables.delete(&table);
}

INLINE u64 *exporters_find(u64 ops)
{
	return exporters.lookup(&ops);
}

INLINE void exporters_set(u64 ops, u64 value)
{
	exporters.update(&ops, &value);
}

INLINE u64 *operations_find(u64 function)
{
	return operations.lookup(&function);
}

INLINE void operations_set(u64 function, u64 value)
{
	operations.update(&function, &value);
}

INLINE u64 *dmabuf_fops_find(void)
{
	u32 zero = 0;

	return dmabuf_fops.lookup(&zero);
}

INLINE struct config *config_find(void)
{
	u32 zero = 0;

	return configs.lookup(&zero);
}

INLINE long stacks_get(void *ctx)
{
	return stacks.get_stackid(ctx, 0);
}

INLINE long user_stacks_get(void *ctx)
{
	return user_stacks.get_stackid(ctx, BPF_F_USER_STACK);
}

INLINE bool matching_find(u64 buffer)
{
	return matching.lookup(&buffer);
}

INLINE long matching_set(u64 buffer)
{
	u64 one = 1;

	return matching.update(&buffer, &one);
}

INLINE void matching_drop(u64 buffer)
{
	matching.delete(&buffer);
}

INLINE bool watched_find(u64 buffer)
{
	return watched.lookup(&buffer);
}

INLINE long watched_set(u64 buffer)
{
	u64 one = 1;

	return watched.update(&buffer, &one);
}

INLINE void watched_drop(u64 buffer)
{
	watched.delete(&buffer);
}

INLINE bool pids_find(u64 pid)
{
	return pids.lookup(&pid);
}

INLINE long pids_set(u64 pid)
{
	u64 one = 1;

	return pids.update(&pid, &one);
}

INLINE void pids_drop(u64 pid)
{
	pids.delete(&pid);
}
