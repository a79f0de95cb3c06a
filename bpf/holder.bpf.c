// SPDX-License-Identifier: GPL-2.0
/* Who gets hold of a buffer: file descriptors and VMAs. */

#define DMA_BUF_MAGIC 0x444d4142	/* include/uapi/linux/magic.h */

/*
 * Every file of the system passes here. The first dma-buf is told by its file system's magic and
 * teaches the address of dma_buf_fops; from then on one read and one comparison decide.
 */
INLINE bool is_dmabuf(struct file *file)
{
	u64 *known = dmabuf_fops_find();
	struct super_block *sb = 0;
	struct inode *inode = 0;
	unsigned long magic = 0;
	u64 fops = 0;

	if (!known)
		return 0;
	READ(fops, file->f_op);
	if (*known)
		return fops == *known;
	READ(inode, file->f_inode);
	READ(sb, inode->i_sb);
	READ(magic, sb->s_magic);
	if (magic != DMA_BUF_MAGIC)
		return 0;
	*known = fops;
	return 1;
}

/* void fd_install(unsigned int fd, struct file *file): PRIME calls it without dma_buf_fd() */
INLINE void on_fd_install(u32 fd, struct file *file)
{
	struct event event = { .kind = EV_FD_INSTALL, .stack = UNKNOWN_STACK };

	if (!is_dmabuf(file))
		return;
	event.object = (u64)file;
	event.buffer = file_inode(file);
	event.detail = fd;
	emit(&event, 0);
}

PROBE(fd_install_entry)
{
	on_fd_install(ARG1(ctx), (struct file *)ARG2(ctx));
	return 0;
}

/* int filp_flush(struct file *, fl_owner_t id), up to 6.1 filp_close(): every way out of a table */
INLINE void on_fd_close(struct file *file, u64 table)
{
	struct event event = { .kind = EV_FD_CLOSE, .value = table, .stack = UNKNOWN_STACK };

	if (!is_dmabuf(file))
		return;
	event.object = (u64)file;
	event.buffer = file_inode(file);
	emit(&event, 0);
}

PROBE(fd_close_entry)
{
	on_fd_close((struct file *)ARG1(ctx), ARG2(ctx));
	return 0;
}

/* @call: vma, inode number. The VMA is read at the return: the exporter may have set its flags. */
INLINE void on_mmap(u32 kind, struct call *call, s32 ret)
{
	struct event event = { .kind = kind, .ret = ret, .stack = UNKNOWN_STACK };
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
	emit(&event, call->ts);
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
		on_mmap(EV_MMAP, &call, RETURNED(ctx));
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
		on_mmap(EV_MMAP_IMPORTER, &call, RETURNED(ctx));
	return 0;
}
