// SPDX-License-Identifier: GPL-2.0
/* Who gets hold of a buffer: file descriptors and VMAs. */

#define DMA_BUF_MAGIC 0x444d4142	/* include/uapi/linux/magic.h */

/* The first dma-buf is told by its file system's magic, and teaches the address of dma_buf_fops. */
OUTLINE bool first_dmabuf(struct file *file, u64 fops)
{
	u64 *known = dmabuf_fops_find();
	struct super_block *sb = 0;
	struct inode *inode = 0;
	unsigned long magic = 0;

	READ(inode, file->f_inode);
	READ(sb, inode->i_sb);
	READ(magic, sb->s_magic);
	if (magic != DMA_BUF_MAGIC)
		return 0;
	if (known)
		*known = fops;
	return 1;
}

/*
 * Every file of the system passes here, so what is not for dma-bufs takes one read and one
 * comparison; the rest is out of line, to save even the set-up of its stack.
 */
INLINE bool is_dmabuf(struct file *file)
{
	u64 *known = dmabuf_fops_find(), fops = 0;

	READ(fops, file->f_op);
	return known && *known ? fops == *known : first_dmabuf(file, fops);
}

/* ---- tables of fds that hold buffers: a fork copies one without a word on what is in it ------ */

INLINE void table_gains(u64 table)
{
	u64 *count;

	if (!observed(EV_FORK))
		return;
	count = tables_find(table);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		tables_set(table, 1);
}

/* Every fd of a table is closed before its memory is used again: none is left behind here. */
INLINE void table_loses(u64 table)
{
	u64 *count = tables_find(table);

	if (!count)
		return;
	__sync_fetch_and_add(count, -1);
	if (!*count)
		tables_drop(table);
}

/* sched_process_fork(struct task_struct *parent, struct task_struct *child), by the parent */
INLINE void on_fork(void *ctx, struct task_struct *parent, struct task_struct *child)
{
	struct event event = { .kind = EV_FORK };
	s32 tgid = 0;
	u64 *count;

	READ(event.object, parent->files);
	count = tables_find(event.object);
	if (!count)
		return;
	READ(event.value, child->files);
	if (!event.value || event.value == event.object)
		return;	/* they share the table */
	tables_set(event.value, *count);
	READ(tgid, child->tgid);
	event.detail = tgid;
	emit(ctx, &event, 0);
}

TRACEPOINT(fork_point)
{
	on_fork(ctx, (struct task_struct *)TP_ARG(ctx, 0), (struct task_struct *)TP_ARG(ctx, 1));
	return 0;
}

/* ---- fds --------------------------------------------------------------------------------------- */

/* @aux: 0 or FD_DUP2 */
OUTLINE void on_fd_install(void *ctx, u64 table, u32 fd, struct file *file, u64 aux)
{
	struct event event = {
		.kind = EV_FD_INSTALL,
		.value = table,
		.aux = aux,
		.detail = fd,
	};

	event.object = (u64)file;
	event.buffer = file_inode(file);
	table_gains(table);
	emit(ctx, &event, 0);
}

INLINE u64 current_table(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u64 table = 0;

	READ(table, task->files);
	return table;
}

/* void fd_install(unsigned int fd, struct file *file): PRIME calls it without dma_buf_fd() */
PROBE(fd_install_entry)
{
	struct file *file = (struct file *)ARG2(ctx);

	if (is_dmabuf(file))
		on_fd_install(ctx, current_table(), ARG1(ctx), file, 0);
	return 0;
}

/*
 * Will do_dup2() refuse, as another thread is about to install a file of its own under @fd? That
 * number is then taken and has no file. The caller holds the table's lock: the answer stays true.
 */
INLINE bool dup2_refuses(struct files_struct *table, u32 fd)
{
	struct fdtable *fdt = 0;
	struct file **files = 0, *file = 0;
	unsigned long *taken = 0, word = 0;

	READ(fdt, table->fdt);
	READ(files, fdt->fd);
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	if (file)
		return 0;
	READ(taken, fdt->open_fds);
	bpf_probe_read_kernel(&word, sizeof(word), taken + fd / 64);
	return word >> fd % 64 & 1;
}

/* int do_dup2(struct files_struct *, struct file *, unsigned fd, unsigned flags) */
PROBE(dup2_entry)
{
	struct file *file = (struct file *)ARG2(ctx);

	if (is_dmabuf(file) && !dup2_refuses((struct files_struct *)ARG1(ctx), ARG3(ctx)))
		on_fd_install(ctx, ARG1(ctx), ARG3(ctx), file, FD_DUP2);
	return 0;
}

/* int filp_flush(struct file *, fl_owner_t id), up to 6.1 filp_close(): every way out of a table */
OUTLINE void on_fd_close(void *ctx, struct file *file, u64 table)
{
	struct event event = { .kind = EV_FD_CLOSE, .value = table };

	event.object = (u64)file;
	event.buffer = file_inode(file);
	table_loses(table);
	emit(ctx, &event, 0);
}

PROBE(fd_close_entry)
{
	struct file *file = (struct file *)ARG1(ctx);

	if (is_dmabuf(file))
		on_fd_close(ctx, file, ARG2(ctx));
	return 0;
}

/* @call: vma, inode number. The VMA is read at the return: the exporter may have set its flags. */
INLINE void on_mmap(void *ctx, u32 kind, struct call *call, s32 ret)
{
	struct event event = { .kind = kind, .ret = ret };
	struct vm_area_struct *vma = (void *)call->first;
	unsigned long start = 0, end = 0, flags = 0, offset = 0;

	READ(start, vma->vm_start);
	READ(end, vma->vm_end);
	READ(flags, vma->vm_flags);
	READ(offset, vma->vm_pgoff);
	event.buffer = call->second;
	event.object = start;
	event.value = end - start;
	event.aux = offset;
	event.detail = flags;
	emit(ctx, &event, call->ts);
}

/* int dma_buf_mmap_internal(struct file *, struct vm_area_struct *): mmap(2) on a dma-buf fd */
PROBE(mmap_entry)
{
	call_enter(EV_MMAP, ARG2(ctx), file_inode((struct file *)ARG1(ctx)), 0);
	return 0;
}

PROBE(mmap_return)
{
	struct call call;

	if (call_return(EV_MMAP, &call))
		on_mmap(ctx, EV_MMAP, &call, RETURNED(ctx));
	return 0;
}

/* int dma_buf_mmap(struct dma_buf *, struct vm_area_struct *, unsigned long): the other way in */
PROBE(mmap_importer_entry)
{
	call_enter(EV_MMAP_IMPORTER, ARG2(ctx), dmabuf_inode((struct dma_buf *)ARG1(ctx)), 0);
	return 0;
}

PROBE(mmap_importer_return)
{
	struct call call;

	if (call_return(EV_MMAP_IMPORTER, &call))
		on_mmap(ctx, EV_MMAP_IMPORTER, &call, RETURNED(ctx));
	return 0;
}
