// SPDX-License-Identifier: GPL-2.0
/*
 * What makes an exporter a dynamic one: pins, and moves while nothing pins.
 *
 * The core asks for a pin on behalf of an importer that cannot be told of a
 * move, while it is mapped or, up to 6.15, attached; others ask by
 * dma_buf_pin(). The dma_resv lock is held in both, as it is during a move.
 */
#include <linux/dma-resv.h>
#include <linux/err.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/sched.h>

#include "handle.h"

int ref_op_pin(struct dma_buf_attachment *attach)
{
	struct ref_buffer *buf = attach->dmabuf->priv;
	int ret;

	dma_resv_assert_held(attach->dmabuf->resv);
	ret = ref_fault(DMABUF_REF_OP_PIN);
	if (!ret && !buf->careless) {
		mutex_lock(&buf->lock);
		buf->pins++;
		mutex_unlock(&buf->lock);
	}

	ref_result(ret, op_pin);
	return ret;
}

void ref_op_unpin(struct dma_buf_attachment *attach)
{
	struct ref_buffer *buf = attach->dmabuf->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	ref_fault(DMABUF_REF_OP_UNPIN);
	if (!buf->careless) {
		mutex_lock(&buf->lock);
		buf->pins--;
		mutex_unlock(&buf->lock);
	}
	ref_inc(op_unpin);
}

/*
 * User mappings follow a move: it takes their pages away, and the next access
 * finds the new ones here. They are never filled before that: an area that
 * mmap() has not linked to the file yet would be missed.
 *
 * The page is returned locked, and unlocked by the mm once it is mapped: by
 * that a move knows of a fault under way.
 */
static vm_fault_t user_fault(struct vm_fault *vmf)
{
	struct ref_buffer *buf = vmf->vma->vm_private_data;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	mutex_lock(&buf->lock);
	/* mremap() can make the area longer than the buffer. */
	if (vmf->pgoff < buf->nr_pages) {
		vmf->page = buf->storage->pages[vmf->pgoff];
		get_page(vmf->page);
		lock_page(vmf->page);
		ret = VM_FAULT_LOCKED;
	}
	mutex_unlock(&buf->lock);
	return ret;
}

static const struct vm_operations_struct user_vm_ops = {
	.fault = user_fault,
};

/* With ref_buffer.lock held, and storage there. */
int ref_dynamic_mmap(struct ref_buffer *buf, struct vm_area_struct *vma)
{
	vma->vm_private_data = buf;
	vma->vm_ops = &user_vm_ops;
	return 0;
}

/* ref_buffer.lock holds up new faults until the storage is replaced. */
static void revoke_user_mappings(struct ref_buffer *buf, struct file *file)
{
	unsigned int i;

	lockdep_assert_held(&buf->lock);
	for (i = 0; i < buf->nr_pages; i++) {
		lock_page(buf->storage->pages[i]);
		unlock_page(buf->storage->pages[i]);
	}
	unmap_mapping_range(file->f_mapping, 0, 0, 1);
}

static int replace_storage(struct ref_buffer *buf, struct file *file)
{
	struct ref_storage *storage;
	unsigned int i;

	lockdep_assert_held(&buf->lock);
	storage = ref_storage_alloc(buf);
	if (IS_ERR(storage))
		return PTR_ERR(storage);

	revoke_user_mappings(buf, file);
	for (i = 0; i < buf->nr_pages; i++) {
		copy_highpage(storage->pages[i], buf->storage->pages[i]);
		cond_resched();
	}
	ref_storage_put(buf->storage);
	buf->storage = storage;
	return 0;
}

static int may_move(const struct ref_buffer *buf)
{
	lockdep_assert_held(&buf->lock);
	if (!buf->storage)
		return -ENODATA;
	return buf->pins ? -EBUSY : 0;
}

static int move(struct dma_buf *dmabuf, struct ref_buffer *buf)
{
	long left;
	int ret;

	dma_resv_assert_held(dmabuf->resv);
	mutex_lock(&buf->lock);
	ret = may_move(buf);
	mutex_unlock(&buf->lock);
	if (ret)
		return ret;

	/* Not under our lock: an importer may unmap at once. */
	dma_buf_invalidate_mappings(dmabuf);
	ref_inc(move_notify);

	/* What the devices still do with the old pages, they finish first. */
	left = dma_resv_wait_timeout(dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP,
				     true, MAX_SCHEDULE_TIMEOUT);
	if (left < 0)
		return left;

	mutex_lock(&buf->lock);
	/* Again: the vmap of 6.1 does not take the dma_resv lock. */
	ret = may_move(buf);
	if (!ret)
		ret = replace_storage(buf, dmabuf->file);
	mutex_unlock(&buf->lock);
	return ret;
}

int ref_move(int fd)
{
	struct dma_buf *dmabuf = ref_dmabuf_get(fd);
	struct ref_buffer *buf;
	int ret;

	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	buf = ref_dynamic_buffer(dmabuf);
	ret = buf ? dma_resv_lock_interruptible(dmabuf->resv, NULL) : -EINVAL;
	if (!ret) {
		ret = move(dmabuf, buf);
		dma_resv_unlock(dmabuf->resv);
	}
	ref_dmabuf_put(dmabuf);
	return ret;
}
