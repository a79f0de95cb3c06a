// SPDX-License-Identifier: GPL-2.0
/*
 * ioctls on a dma-buf fd: CPU access, names, sync files. The functions behind them are inlined into
 * dma_buf_ioctl() by all known builds, so the command is decoded here.
 */

#define IOCTL_SYNC 0x40086200		/* include/uapi/linux/dma-buf.h */
#define IOCTL_SET_NAME_A 0x40046201
#define IOCTL_SET_NAME_B 0x40086201
#define IOCTL_EXPORT_SYNC_FILE 0xc0086202
#define IOCTL_IMPORT_SYNC_FILE 0x40086203

INLINE void on_sync(void *ctx, u64 inode, u64 argument, u64 begin, s32 ret)
{
	struct event event = { .kind = EV_CPU_BEGIN, .ret = ret };
	u64 flags = 0;

	/* at the return the page is resident: the ioctl itself has read it */
	if (bpf_probe_read_user(&flags, sizeof(flags), (void *)argument)) {
		lose(EV_CPU_BEGIN, LOSS_UNREADABLE);
		return;
	}
	if (flags & SYNC_END)
		event.kind = EV_CPU_END;
	event.buffer = inode;
	event.detail = flags;
	emit(ctx, &event, begin);
}

INLINE void on_set_name(void *ctx, struct file *file, u64 inode, u64 begin, s32 ret)
{
	struct event event = { .kind = EV_SET_NAME, .ret = ret };
	struct dma_buf *dmabuf = 0;
	const char *text = 0;

	READ(dmabuf, file->private_data);
	READ(text, dmabuf->name);
	event.buffer = inode;
	event.aux = intern_text(text, NAME_BUFFER, EV_SET_NAME);
	emit(ctx, &event, begin);
}

/* struct dma_buf_{export,import}_sync_file { __u32 flags; __s32 fd; } */
INLINE void on_sync_file(void *ctx, u32 kind, u64 inode, u64 argument, u64 begin, s32 ret)
{
	struct event event = { .kind = kind, .ret = ret };
	struct {
		u32 flags;
		s32 fd;
	} given = {};

	if (bpf_probe_read_user(&given, sizeof(given), (void *)argument)) {
		lose(kind, LOSS_UNREADABLE);
		return;
	}
	event.buffer = inode;
	event.detail = given.flags;
	event.value = given.fd;
	emit(ctx, &event, begin);
}

/* long dma_buf_ioctl(struct file *file, unsigned int cmd, unsigned long arg) */
PROBE(ioctl_entry)
{
	call_enter(EV_CPU_BEGIN, ARG1(ctx), (u32)ARG2(ctx), ARG3(ctx));
	return 0;
}

PROBE(ioctl_return)
{
	struct call call;
	struct file *file;
	u64 inode;

	if (!call_return(EV_CPU_BEGIN, &call))
		return 0;
	file = (struct file *)call.first;
	inode = file_inode(file);
	switch (call.second) {
	case IOCTL_SYNC:
		on_sync(ctx, inode, call.third, call.ts, RETURNED(ctx));
		break;
	case IOCTL_SET_NAME_A:
	case IOCTL_SET_NAME_B:
		on_set_name(ctx, file, inode, call.ts, RETURNED(ctx));
		break;
	case IOCTL_EXPORT_SYNC_FILE:
		on_sync_file(ctx, EV_EXPORT_SYNC_FILE, inode, call.third, call.ts, RETURNED(ctx));
		break;
	case IOCTL_IMPORT_SYNC_FILE:
		on_sync_file(ctx, EV_IMPORT_SYNC_FILE, inode, call.third, call.ts, RETURNED(ctx));
		break;
	}
	return 0;
}
