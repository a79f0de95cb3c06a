// SPDX-License-Identifier: GPL-2.0
/*
 * Handles: the attachments of importer devices that user space makes, to any
 * dma-buf, and the leaks made of them.
 *
 * Locks: ref_handle.lock serialises everything done with one attachment. It is
 * taken before any lock of the dma-buf core; it is never taken under mmap_lock.
 * Only a gate or a slow exporter makes it wait, so waiting for it is killable.
 */
#include <linux/err.h>
#include <linux/iosys-map.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

struct ref_handle {
	struct kref ref;		/* the table's, and each user's */
	struct mutex lock;		/* protects all below */
	bool gone;			/* detached or leaked: not in a table */
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	struct list_head mappings;	/* newest first */
	struct iosys_map vmap;
	unsigned int vmap_count;
	struct list_head leak;
};

struct ref_import {
	struct list_head node;
	struct sg_table *sgt;
	enum dma_data_direction dir;
};

struct ref_leaked_ref {
	struct list_head node;
	struct dma_buf *dmabuf;
};

static DEFINE_MUTEX(leaks_lock);	/* protects both lists */
static LIST_HEAD(leaked_handles);
static LIST_HEAD(leaked_refs);

/* Calls into the dma-buf core, counted */

static struct dma_buf *get_counted(int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);

	ref_result(IS_ERR(dmabuf), get);
	return dmabuf;
}

static void put_counted(struct dma_buf *dmabuf)
{
	dma_buf_put(dmabuf);
	ref_inc(put);
}

static struct ref_import *map_newest(struct ref_handle *handle,
				     enum dma_data_direction dir)
{
	struct ref_import *import;
	struct sg_table *sgt;

	import = kzalloc(sizeof(*import), GFP_KERNEL);
	if (!import)
		return ERR_PTR(-ENOMEM);

	sgt = dma_buf_map_attachment_unlocked(handle->attach, dir);
	ref_result(IS_ERR(sgt), map);
	if (IS_ERR(sgt)) {
		kfree(import);
		return ERR_CAST(sgt);
	}

	import->sgt = sgt;
	import->dir = dir;
	list_add(&import->node, &handle->mappings);
	return import;
}

static void unmap_newest(struct ref_handle *handle)
{
	struct ref_import *import;

	import = list_first_entry(&handle->mappings, struct ref_import, node);
	list_del(&import->node);
	dma_buf_unmap_attachment_unlocked(handle->attach, import->sgt,
					  import->dir);
	ref_inc(unmap);
	kfree(import);
}

static void end_cpu_access(struct dma_buf *dmabuf)
{
	ref_result(dma_buf_end_cpu_access(dmabuf, DMA_BIDIRECTIONAL), end);
}

/*
 * CPU access is bracketed, in the kernel too. Here the bracket has one more
 * use: late storage that can't be had fails it, and not the vmap, for which
 * the core would WARN.
 */
static int vmap_once(struct ref_handle *handle)
{
	struct dma_buf *dmabuf = handle->dmabuf;
	int ret;

	ret = dma_buf_begin_cpu_access(dmabuf, DMA_BIDIRECTIONAL);
	ref_result(ret, begin);
	if (ret)
		return ret;

	ret = dma_buf_vmap_unlocked(dmabuf, &handle->vmap);
	ref_result(ret, vmap);
	if (ret)
		end_cpu_access(dmabuf);
	else
		handle->vmap_count++;
	return ret;
}

static void vunmap_once(struct ref_handle *handle)
{
	dma_buf_vunmap_unlocked(handle->dmabuf, &handle->vmap);
	ref_inc(vunmap);
	handle->vmap_count--;
	end_cpu_access(handle->dmabuf);
}

/* Handles */

static void handle_free(struct kref *ref)
{
	struct ref_handle *handle = container_of(ref, struct ref_handle, ref);

	mutex_destroy(&handle->lock);
	kfree(handle);
}

static void handle_unlock(struct ref_handle *handle)
{
	mutex_unlock(&handle->lock);
	kref_put(&handle->ref, handle_free);
}

/*
 * Whoever holds the lock may use the attachment: a handle that was detached or
 * leaked while we waited is as unknown as one that never was.
 */
static struct ref_handle *handle_lock(struct ref_file *file, u32 id)
{
	struct ref_handle *handle;

	xa_lock(&file->handles);
	handle = xa_load(&file->handles, id);
	if (handle)
		kref_get(&handle->ref);
	xa_unlock(&file->handles);
	if (!handle)
		return ERR_PTR(-ENOENT);

	if (mutex_lock_killable(&handle->lock)) {
		kref_put(&handle->ref, handle_free);
		return ERR_PTR(-EINTR);
	}
	if (handle->gone) {
		handle_unlock(handle);
		return ERR_PTR(-ENOENT);
	}
	return handle;
}

/* Takes a locked handle and the table's reference to it out of the table. */
static void handle_take(struct ref_file *file, u32 id,
			struct ref_handle *handle)
{
	lockdep_assert_held(&handle->lock);
	handle->gone = true;
	xa_erase(&file->handles, id);
}

/* Undoes ATTACH and drops the reference that the table or a list had. */
static void handle_destroy(struct ref_handle *handle)
{
	while (handle->vmap_count)
		vunmap_once(handle);
	while (!list_empty(&handle->mappings))
		unmap_newest(handle);
	dma_buf_detach(handle->dmabuf, handle->attach);
	ref_inc(detach);
	put_counted(handle->dmabuf);
	ref_dec(live_handles);
	kref_put(&handle->ref, handle_free);
}

static struct ref_handle *handle_create(int fd, struct device *dev)
{
	struct ref_handle *handle;
	int ret;

	handle = kzalloc(sizeof(*handle), GFP_KERNEL);
	if (!handle)
		return ERR_PTR(-ENOMEM);
	kref_init(&handle->ref);
	mutex_init(&handle->lock);
	INIT_LIST_HEAD(&handle->mappings);

	handle->dmabuf = get_counted(fd);
	if (IS_ERR(handle->dmabuf)) {
		ret = PTR_ERR(handle->dmabuf);
		goto err_free;
	}

	handle->attach = dma_buf_attach(handle->dmabuf, dev);
	ref_result(IS_ERR(handle->attach), attach);
	if (IS_ERR(handle->attach)) {
		ret = PTR_ERR(handle->attach);
		goto err_put;
	}

	ref_inc(live_handles);
	return handle;

err_put:
	put_counted(handle->dmabuf);
err_free:
	kref_put(&handle->ref, handle_free);
	return ERR_PTR(ret);
}

/* What the ioctls do */

int ref_attach(struct ref_file *file, int fd, u32 importer)
{
	struct ref_handle *handle;
	u32 id;
	int ret;

	if (importer >= DMABUF_REF_NR_IMPORTERS)
		return -EINVAL;

	handle = handle_create(fd, ref_importer_device(importer));
	if (IS_ERR(handle))
		return PTR_ERR(handle);

	ret = xa_alloc(&file->handles, &id, handle, XA_LIMIT(1, INT_MAX),
		       GFP_KERNEL);
	if (ret) {
		handle_destroy(handle);
		return ret;
	}
	return id;
}

static void describe(struct ref_import *import, struct dmabuf_ref_map *req)
{
	struct scatterlist *sg;
	unsigned int i;

	req->nents = import->sgt->nents;
	req->bytes = 0;
	for_each_sgtable_dma_sg(import->sgt, sg, i)
		req->bytes += sg_dma_len(sg);
}

int ref_map(struct ref_file *file, struct dmabuf_ref_map __user *arg)
{
	struct dmabuf_ref_map req;
	struct ref_handle *handle;
	struct ref_import *import;
	int ret = 0;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	/* DMA_NONE and anything above is a BUG() in the DMA API. */
	if (req.direction > DMA_FROM_DEVICE || req.reserved)
		return -EINVAL;

	handle = handle_lock(file, req.handle);
	if (IS_ERR(handle))
		return PTR_ERR(handle);

	import = map_newest(handle, req.direction);
	if (IS_ERR(import)) {
		ret = PTR_ERR(import);
	} else {
		describe(import, &req);
		/* Still locked: a failed copy takes back this very mapping. */
		if (copy_to_user(arg, &req, sizeof(req))) {
			unmap_newest(handle);
			ret = -EFAULT;
		}
	}
	handle_unlock(handle);
	return ret;
}

int ref_unmap(struct ref_file *file, u32 id)
{
	struct ref_handle *handle = handle_lock(file, id);
	int ret = 0;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	if (list_empty(&handle->mappings))
		ret = -EINVAL;
	else
		unmap_newest(handle);
	handle_unlock(handle);
	return ret;
}

int ref_vmap(struct ref_file *file, u32 id)
{
	struct ref_handle *handle = handle_lock(file, id);
	int ret;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	ret = vmap_once(handle);
	handle_unlock(handle);
	return ret;
}

int ref_vunmap(struct ref_file *file, u32 id)
{
	struct ref_handle *handle = handle_lock(file, id);
	int ret = 0;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	if (handle->vmap_count)
		vunmap_once(handle);
	else
		ret = -EINVAL;
	handle_unlock(handle);
	return ret;
}

int ref_detach(struct ref_file *file, u32 id, bool force)
{
	struct ref_handle *handle = handle_lock(file, id);
	int ret = 0;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	if (!force && (handle->vmap_count || !list_empty(&handle->mappings))) {
		ret = -EBUSY;
	} else {
		handle_take(file, id, handle);
		handle_destroy(handle);
	}
	handle_unlock(handle);
	return ret;
}

/* For the last close of a file: no ioctl of it can be running. */
void ref_detach_all(struct ref_file *file)
{
	struct ref_handle *handle;
	unsigned long id;

	xa_for_each(&file->handles, id, handle)
		handle_destroy(handle);
	xa_destroy(&file->handles);
}

/*
 * Leaks. Each keeps the module loaded; the caller's open file of the device
 * does so until then, and while they are undone.
 */
int ref_leak(struct ref_file *file, u32 id)
{
	struct ref_handle *handle = handle_lock(file, id);

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	handle_take(file, id, handle);
	__module_get(THIS_MODULE);
	ref_inc(leaked_attachments);
	mutex_lock(&leaks_lock);
	list_add_tail(&handle->leak, &leaked_handles);
	mutex_unlock(&leaks_lock);
	handle_unlock(handle);
	return 0;
}

int ref_leak_ref(int fd)
{
	struct ref_leaked_ref *leak;

	leak = kzalloc(sizeof(*leak), GFP_KERNEL);
	if (!leak)
		return -ENOMEM;

	leak->dmabuf = get_counted(fd);
	if (IS_ERR(leak->dmabuf)) {
		int ret = PTR_ERR(leak->dmabuf);

		kfree(leak);
		return ret;
	}

	__module_get(THIS_MODULE);
	ref_inc(leaked_refs);
	mutex_lock(&leaks_lock);
	list_add_tail(&leak->node, &leaked_refs);
	mutex_unlock(&leaks_lock);
	return 0;
}

/**
 * ref_undo_leaks - release all that LEAK and LEAK_REF of any file kept
 *
 * Return: how many.
 */
int ref_undo_leaks(void)
{
	struct ref_leaked_ref *leak, *next_leak;
	struct ref_handle *handle, *next_handle;
	LIST_HEAD(handles);
	LIST_HEAD(refs);
	int undone = 0;

	mutex_lock(&leaks_lock);
	list_splice_init(&leaked_handles, &handles);
	list_splice_init(&leaked_refs, &refs);
	mutex_unlock(&leaks_lock);

	list_for_each_entry_safe(handle, next_handle, &handles, leak) {
		handle_destroy(handle);
		ref_dec(leaked_attachments);
		module_put(THIS_MODULE);
		undone++;
	}
	list_for_each_entry_safe(leak, next_leak, &refs, node) {
		put_counted(leak->dmabuf);
		kfree(leak);
		ref_dec(leaked_refs);
		module_put(THIS_MODULE);
		undone++;
	}
	return undone;
}
