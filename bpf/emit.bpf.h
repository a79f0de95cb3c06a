/* SPDX-License-Identifier: GPL-2.0 */
/* Stamps and sends events, sends each name once, counts what is lost. */
#ifndef DMABUF_TRACE_EMIT_H
#define DMABUF_TRACE_EMIT_H

#define MAX_ERRNO 4095

INLINE void lose(u32 kind, u32 cause)
{
	u64 *count = losses_find(kind * CAUSE_SLOTS + cause);

	if (count)
		(*count)++;	/* per processor, and probes don't preempt each other */
}

/* The errno in a returned pointer, 0 for a valid one; NULL is what -ENOMEM becomes. */
INLINE s32 pointer_error(u64 pointer)
{
	return pointer >= (u64)-MAX_ERRNO ? (s32)pointer : 0;
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

/* FNV-1a over 64-bit words: ids of strings, stable and independent of where the text lives. */
INLINE u64 hash_words(u64 hash, const void *text, u32 bytes)
{
	const u64 *words = text;
	u32 i;

#pragma unroll
	for (i = 0; i < bytes / sizeof(u64); i++)
		hash = (hash ^ words[i]) * 0x100000001b3ULL;
	/* the product carries only upwards: fold the high half back */
	return hash ^ (hash >> 29);
}

/* Send @name under the id that its text gives it, unless that id was sent before. */
INLINE u64 intern(struct name *name, u32 kind)
{
	u64 id = hash_words(0xcbf29ce484222325ULL + name->type, name->text, sizeof(name->text));

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
	u64 id;

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
	devices_set((u64)device, id);
	return id;
}

/* The name that the last attach found at this address; looked up anew where there was none. */
INLINE u64 device_id(struct device *device, u32 kind)
{
	u64 *known = devices_find((u64)device);

	return known ? *known : intern_device(device, kind);
}

/* A thread's comm travels when it is first seen and whenever it changed. */
INLINE void name_thread(u64 pid_tgid, u64 ts, u32 kind)
{
	struct comm now = {}, *known;
	u32 tid = (u32)pid_tgid;

	bpf_get_current_comm(&now, sizeof(now));
	known = comms_find(tid);
	if (known && known->words[0] == now.words[0] && known->words[1] == now.words[1])
		return;

	struct name name = { .id = tid, .ts = ts, .type = NAME_COMM, .pid = pid_tgid >> 32 };

	__builtin_memcpy(name.text, &now, sizeof(now));
	if (names_push(&name))
		lose(kind, LOSS_STRING_LOST);
	else
		comms_set(tid, &now);
}

/* ---- events -------------------------------------------------------------------------------- */

/* Stamp @event and send it. @begin: when a timed call was entered; 0: not timed. */
OUTLINE void emit(struct event *event, u64 begin)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();

	event->ts = bpf_ktime_get_ns();
	event->dur = begin ? event->ts - begin : 0;
	event->pid = pid_tgid >> 32;
	event->tid = (u32)pid_tgid;
	event->cpu = bpf_get_smp_processor_id();
	name_thread(pid_tgid, event->ts, event->kind);
	if (events_push(event))
		lose(event->kind, LOSS_RING_FULL);
}

INLINE s32 kernel_stack(void *ctx, u32 kind)
{
	long id = stacks_get(ctx);

	if (id >= 0)
		return id;
	lose(kind, LOSS_STACK_LOST);
	return UNKNOWN_STACK;
}

/* ---- calls: what the entry knows, kept for the return ---------------------------------------- */

INLINE void call_enter(u32 kind, u64 first, u64 second, u64 third)
{
	struct call_key key = { .thread = bpf_get_current_pid_tgid(), .kind = kind };
	struct call call = { .first = first, .second = second, .third = third };

	call.ts = bpf_ktime_get_ns();
	if (inflight_set(&key, &call))
		lose(kind, LOSS_INFLIGHT_FULL);
}

/* Take back what call_enter() kept; false where there is nothing, which is a loss. */
INLINE bool call_return(u32 kind, struct call *call)
{
	struct call_key key = { .thread = bpf_get_current_pid_tgid(), .kind = kind };
	struct call *kept = inflight_find(&key);

	if (!kept) {
		lose(kind, LOSS_NO_ENTRY);
		return 0;
	}
	*call = *kept;
	inflight_drop(&key);
	return 1;
}

/* Is this thread inside such a call, made with @first? */
INLINE bool call_under_way(u32 kind, u64 first)
{
	struct call_key key = { .thread = bpf_get_current_pid_tgid(), .kind = kind };
	struct call *call = inflight_find(&key);

	return call && call->first == first;
}

#endif
