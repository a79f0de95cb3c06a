/* SPDX-License-Identifier: GPL-2.0 */
/* Stamps and sends events, sends each name once, counts what is lost. */
#ifndef DMABUF_TRACE_EMIT_H
#define DMABUF_TRACE_EMIT_H

#define MAX_ERRNO 4095
#define ENOMEM 12

INLINE void lose(u32 kind, u32 cause)
{
	u64 *count = losses_find(kind * CAUSE_SLOTS + cause);

	if (count)
		__sync_fetch_and_add(count, 1);
}

#include "filter.bpf.h"

/* The errno in a returned pointer, 0 for a valid one; NULL is what -ENOMEM becomes. */
INLINE s32 pointer_error(u64 pointer)
{
	return pointer >= (u64)-MAX_ERRNO ? (s32)pointer : 0;
}

/* Is that kind of event observed? What only serves one that isn't need not be done. */
INLINE bool observed(u32 kind)
{
	struct config *config = config_find();

	return config && config->kinds & 1ULL << kind;
}

/* The inode number is the identity of a buffer: unique per boot, while pointers are re-used. */
INLINE u64 file_inode(struct file *file)
{
	struct inode *inode = 0;
	unsigned long number = 0;

	READ(inode, file->f_inode);
	READ(number, inode->i_ino);
	return number;
}

INLINE u64 dmabuf_inode(struct dma_buf *dmabuf)
{
	struct file *file = 0;

	READ(file, dmabuf->file);
	return file_inode(file);
}

/* ---- names --------------------------------------------------------------------------------- */

#define FNV_BASIS 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL

/* FNV-1a over 64-bit words: ids of strings, stable and independent of where the text lives. */
INLINE u64 hash_words(u64 hash, const void *text, u32 bytes)
{
	const u64 *words = text;
	u32 i;

#pragma unroll
	for (i = 0; i < bytes / sizeof(u64); i++)
		hash = (hash ^ words[i]) * FNV_PRIME;
	/* the product carries only upwards: fold the high half back */
	return hash ^ (hash >> 29);
}

/* Send @name under the id that its text gives it, unless that id was sent before. */
INLINE u64 intern(struct name *name, u32 kind)
{
	/* multiplied, or a type would stand for other first letters of another one's text */
	u64 id = (FNV_BASIS ^ name->type) * FNV_PRIME;

	id = hash_words(id, name->text, sizeof(name->text));
	id = hash_words(id, name->driver, sizeof(name->driver));
	id = hash_words(id, name->bus, sizeof(name->bus));
	if (strings_find(id))
		return id;
	name->id = id;
	name->ts = bpf_ktime_get_ns();
	if (names_push(name))
		lose(kind, LOSS_STRING_LOST);	/* not marked as sent: the next use tries again */
	else
		strings_set(id, 1);
	return id;
}

OUTLINE u64 intern_text(const char *text, u32 type, u32 kind)
{
	struct name name = { .type = type };

	if (!text)
		return 0;
	bpf_probe_read_kernel_str(name.text, sizeof(name.text), text);
	return intern(&name, kind);
}

OUTLINE u64 intern_device(struct device *device, u32 kind)
{
	struct name name = { .type = NAME_DEVICE };
	struct device_driver *driver = 0;
	struct bus_type *bus = 0;
	const char *text = 0;
	u64 *known, id;

	/* as dev_name(): init_name until the device is registered, then the kobject's */
	READ(text, device->init_name);
	if (!text)
		READ(text, device->kobj.name);
	bpf_probe_read_kernel_str(name.text, sizeof(name.text), text);
	READ(driver, device->driver);
	if (driver) {
		READ(text, driver->name);
		bpf_probe_read_kernel_str(name.driver, sizeof(name.driver), text);
	}
	READ(bus, device->bus);
	if (bus) {
		READ(text, bus->name);
		bpf_probe_read_kernel_str(name.bus, sizeof(name.bus), text);
	}
	id = intern(&name, kind);
	known = devices_find((u64)device);
	if (!known || *known != id)
		devices_set((u64)device, id);	/* costs more than the look */
	return id;
}

/* The name that the last attach found at this address; looked up anew where there was none. */
INLINE u64 device_id(struct device *device, u32 kind)
{
	u64 *known = devices_find((u64)device);

	return known ? *known : intern_device(device, kind);
}

/* A thread's comm and cgroup travel when it is first seen and whenever one of them changed. */
INLINE void name_thread(u64 pid_tgid, u64 ts, u32 kind)
{
	struct comm now = {}, *known;
	u32 tid = (u32)pid_tgid;

	comm_now(&now);
	now.cgroup = bpf_get_current_cgroup_id();
	known = comms_find(tid);
	if (known && known->words[0] == now.words[0] && known->words[1] == now.words[1] &&
	    known->cgroup == now.cgroup)
		return;

	struct name name = { .id = tid, .ts = ts, .type = NAME_COMM, .pid = pid_tgid >> 32 };

	name.cgroup = now.cgroup;
	__builtin_memcpy(name.text, now.words, sizeof(now.words));
	if (names_push(&name))
		lose(kind, LOSS_STRING_LOST);
	else
		comms_set(tid, &now);
}

/* ---- events -------------------------------------------------------------------------------- */

/* What bpf_get_stackid() gave, as an id. */
INLINE s16 stack_id(u32 kind, long found)
{
	if (found >= 0)
		return found;
	lose(kind, found == -EEXIST ? LOSS_STACK_COLLISION : LOSS_STACK_LOST);
	return UNKNOWN_STACK;
}

/* The stacks that were asked for of this kind of event. */
INLINE void take_stacks(void *ctx, struct config *config, struct event *event)
{
	u64 bit = 1ULL << event->kind;
	long found;

	event->stack = event->user_stack = UNKNOWN_STACK;
	if (config && config->kernel_stacks & bit)
		event->stack = stack_id(event->kind, stacks_get(ctx));
	if (config && config->user_stacks & bit) {
		found = user_stacks_get(ctx);
		if (found != -EFAULT)	/* a kernel thread has no such stack: nothing is lost */
			event->user_stack = stack_id(event->kind, found);
	}
}

/*
 * Stamp @event and send it, if the filters let it pass. @begin: when a timed call was entered; 0:
 * not timed.
 */
OUTLINE void emit(void *ctx, struct event *event, u64 begin)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct config *config = config_find();

	if (!is_wanted(config, event))
		return;
	event->ts = bpf_ktime_get_ns();
	event->dur = begin ? event->ts - begin : 0;
	event->pid = pid_tgid >> 32;
	event->tid = (u32)pid_tgid;
	event->cpu = bpf_get_smp_processor_id();
	take_stacks(ctx, config, event);
	name_thread(pid_tgid, event->ts, event->kind);
	if (events_push(event))
		lose(event->kind, LOSS_RING_FULL);
}

/* ---- calls: what the entry knows, kept for the return ---------------------------------------- */

#define MAX_NESTED 4

/*
 * A call within a call of the same kind on one thread, as exporters make that wrap other exporters'
 * buffers; or what the outermost left is stale, because the kernel missed its return.
 */
OUTLINE void call_enter_nested(struct call_key *key, struct call *call)
{
	struct call *outer = inflight_find(key);

	if (!outer) {
		lose(key->kind, LOSS_INFLIGHT_FULL);
		return;
	}
	if (outer->nested == MAX_NESTED) {
		*outer = *call;	/* nobody nests so deep: all of it is stale */
		return;
	}
	/* counted even where there is no room: its return must not take the outer one's place */
	key->depth = ++outer->nested;
	if (inflight_set(key, call))
		lose(key->kind, LOSS_INFLIGHT_FULL);
}

INLINE void call_enter_as(struct call_key *key, struct call *call)
{
	call->ts = bpf_ktime_get_ns();
	if (inflight_add(key, call))
		call_enter_nested(key, call);
}

/* This thread's outermost call of @kind. */
INLINE struct call_key key_of(u32 kind)
{
	struct call_key key = { .thread = bpf_get_current_pid_tgid(), .kind = kind };

	return key;
}

INLINE void call_enter(u32 kind, u64 first, u64 second, u64 third)
{
	struct call_key key = key_of(kind);
	struct call call = { .first = first, .second = second, .third = third };

	call_enter_as(&key, &call);
}

/* Take back what call_enter_as() kept; false where there is nothing, which is a loss. */
INLINE bool call_return_as(struct call_key *key, struct call *call)
{
	struct call *kept = inflight_find(key);

	if (kept && kept->nested) {
		key->depth = kept->nested--;
		kept = inflight_find(key);
	}
	if (!kept) {
		lose(key->kind, LOSS_NO_ENTRY);
		return 0;
	}
	*call = *kept;
	inflight_drop(key);
	return 1;
}

INLINE bool call_return(u32 kind, struct call *call)
{
	struct call_key key = key_of(kind);

	return call_return_as(&key, call);
}

/* Is this thread inside such a call, made with @first? */
INLINE bool call_under_way(u32 kind, u64 first)
{
	struct call_key key = key_of(kind);
	struct call *call = inflight_find(&key);

	if (call && call->nested) {
		key.depth = call->nested;
		call = inflight_find(&key);
	}
	return call && call->first == first;
}

#endif
