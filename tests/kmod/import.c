// SPDX-License-Identifier: GPL-2.0
/*
 * What an importer does with its attachment: map, vmap, pin.
 *
 * A static importer leaves the reservation lock to the core. A dynamic one
 * holds it itself around each of its calls, as a driver does that maps the
 * buffers of a whole job.
 */
#include <linux/dma-resv.h>
#include <linux/err.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "handle.h"

struct ref_import {
	struct list_head node;
	struct sg_table *sgt;
	enum dma_data_direction dir;
};

static void lock_if_dynamic(struct ref_handle *handle)
{
	if (handle->dynamic)
		dma_resv_lock(handle->dmabuf->resv, NULL);
}

static void unlock_if_dynamic(struct ref_handle *handle)
{
	if (handle->dynamic)
		dma_resv_unlock(handle->dmabuf->resv);
}

/* Calls into the dma-buf core, counted */

static struct ref_import *map_newest(struct ref_handle *handle,
				     enum dma_data_direction dir)
{
	struct ref_import *import;
	struct sg_table *sgt;

	import = kzalloc(sizeof(*import), GFP_KERNEL);
	if (!import)
		return ERR_PTR(-ENOMEM);

	if (handle->dynamic)
		sgt = dma_buf_map_attachment(handle->attach, dir);
	else
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

static void unmap(struct ref_handle *handle, struct sg_table *sgt,
		  enum dma_data_direction dir)
{
	if (handle->dynamic)
		dma_buf_unmap_attachment(handle->attach, sgt, dir);
	else
		dma_buf_unmap_attachment_unlocked(handle->attach, sgt, dir);
}

static void unmap_newest(struct ref_handle *handle)
{
	struct ref_import *import;

	import = list_first_entry(&handle->mappings, struct ref_import, node);
	list_del(&import->node);
	unmap(handle, import->sgt, import->dir);
	ref_inc(unmap);
	kfree(import);
}

static void unmap_all(struct ref_handle *handle)
{
	while (!list_empty(&handle->mappings))
		unmap_newest(handle);
}

/*
 * The buffer moves; its exporter holds the dma_resv lock and waits for nothing
 * but fences. This device does nothing by itself, so both ways are right: a
 * driver that cannot stop its device here unmaps later, and maps anew.
 */
static void on_move(struct dma_buf_attachment *attach)
{
	struct ref_handle *handle = attach->importer_priv;

	ref_inc(notified);
	if (handle->lazy)
		handle->stale = true;
	else
		unmap_all(handle);
}

static const struct dma_buf_attach_ops dynamic_importer_ops = {
	.invalidate_mappings = on_move,
};

static const struct dma_buf_attach_ops p2p_importer_ops = {
	.allow_peer2peer = true,
	.invalidate_mappings = on_move,
};

struct dma_buf_attachment *ref_import_attach(struct ref_handle *handle,
					     struct device *dev)
{
	const struct dma_buf_attach_ops *ops =
		handle->p2p ? &p2p_importer_ops : &dynamic_importer_ops;
	struct dma_buf_attachment *attach;

	if (handle->dynamic)
		attach = dma_buf_dynamic_attach(handle->dmabuf, dev, ops,
						handle);
	else
		attach = dma_buf_attach(handle->dmabuf, dev);
	ref_result(IS_ERR(attach), attach);
	if (handle->p2p && !IS_ERR(attach))
		ref_result(!attach->peer2peer, p2p);
	return attach;
}

static void unpin_once(struct ref_handle *handle)
{
	dma_buf_unpin(handle->attach);
	ref_inc(unpin);
	handle->pins--;
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

bool ref_import_in_use(const struct ref_handle *handle)
{
	return handle->vmap_count || handle->pins ||
	       !list_empty(&handle->mappings);
}

/* Undoes whatever was done with the attachment. */
void ref_import_end(struct ref_handle *handle)
{
	while (handle->vmap_count)
		vunmap_once(handle);

	lock_if_dynamic(handle);
	unmap_all(handle);
	unlock_if_dynamic(handle);

	/* A static importer that has any is careless, not deadlocked. */
	dma_resv_lock(handle->dmabuf->resv, NULL);
	while (handle->pins)
		unpin_once(handle);
	dma_resv_unlock(handle->dmabuf->resv);
}

/* A misuse: forgets whatever was done, but for a vmap, which would be a BUG. */
void ref_import_leave(struct ref_handle *handle)
{
	struct ref_import *import, *next;

	while (handle->vmap_count)
		vunmap_once(handle);

	lock_if_dynamic(handle);
	list_for_each_entry_safe(import, next, &handle->mappings, node) {
		list_del(&import->node);
		kfree(import);
		ref_inc(left_maps);
	}
	unlock_if_dynamic(handle);

	for (; handle->pins; handle->pins--)
		ref_inc(left_pins);
}

/* What the ioctls do */

static void describe(struct ref_import *import, struct dmabuf_ref_map *req)
{
	struct scatterlist *sg;
	unsigned int i;

	req->nents = import->sgt->nents;
	req->bytes = 0;
	for_each_sgtable_dma_sg(import->sgt, sg, i)
		req->bytes += sg_dma_len(sg);
}

/* The handle's lock was held since: nothing newer was mapped. */
static void take_back(struct ref_handle *handle, struct ref_import *import)
{
	lock_if_dynamic(handle);
	if (!list_empty(&handle->mappings) &&
	    list_first_entry(&handle->mappings, struct ref_import, node) ==
	    import)
		unmap_newest(handle);
	unlock_if_dynamic(handle);
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

	handle = ref_handle_lock(file, req.handle);
	if (IS_ERR(handle))
		return PTR_ERR(handle);

	lock_if_dynamic(handle);
	if (handle->stale) {
		unmap_all(handle);
		handle->stale = false;
	}
	import = map_newest(handle, req.direction);
	if (!IS_ERR(import))
		describe(import, &req);
	unlock_if_dynamic(handle);

	if (IS_ERR(import)) {
		ret = PTR_ERR(import);
	} else if (copy_to_user(arg, &req, sizeof(req))) {
		take_back(handle, import);
		ret = -EFAULT;
	}
	ref_handle_unlock(handle);
	return ret;
}

/* With the lock held that unmapping needs. */
static int unmap_by_flags(struct ref_handle *handle, u32 flags)
{
	struct ref_import *import;

	if (flags && !ref_is_own(handle->dmabuf))
		return -EINVAL;
	if (flags & DMABUF_REF_NOTHING) {
		/* The call that static ones make would not get to the core's. */
		if (!handle->dynamic)
			return -EINVAL;
		unmap(handle, NULL, DMA_TO_DEVICE);
		ref_inc(unmap_nothing);
		return 0;
	}
	if (list_empty(&handle->mappings))
		return -EINVAL;
	if (flags & DMABUF_REF_OTHERWISE) {
		import = list_first_entry(&handle->mappings, struct ref_import,
					  node);
		import->dir = import->dir == DMA_TO_DEVICE ? DMA_FROM_DEVICE :
							     DMA_TO_DEVICE;
		ref_inc(unmap_otherwise);
	}
	unmap_newest(handle);
	return 0;
}

int ref_unmap(struct ref_file *file, u32 id, u32 flags)
{
	struct ref_handle *handle = ref_handle_lock(file, id);
	int ret;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	lock_if_dynamic(handle);
	ret = unmap_by_flags(handle, flags);
	unlock_if_dynamic(handle);
	ref_handle_unlock(handle);
	return ret;
}

int ref_vmap(struct ref_file *file, u32 id)
{
	struct ref_handle *handle = ref_handle_lock(file, id);
	int ret;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	ret = vmap_once(handle);
	ref_handle_unlock(handle);
	return ret;
}

int ref_vunmap(struct ref_file *file, u32 id)
{
	struct ref_handle *handle = ref_handle_lock(file, id);
	int ret = 0;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	if (handle->vmap_count)
		vunmap_once(handle);
	else
		ret = -EINVAL;
	ref_handle_unlock(handle);
	return ret;
}

/*
 * The core WARNs where a static importer pins: it does so for it by itself. At
 * a static exporter, which has no pin, it comes to nothing.
 */
static bool may_pin(const struct ref_handle *handle, u32 flags)
{
	return handle->dynamic ||
	       (flags & DMABUF_REF_STATIC && ref_is_own(handle->dmabuf));
}

int ref_pin(struct ref_file *file, u32 id, u32 flags)
{
	struct ref_handle *handle = ref_handle_lock(file, id);
	int ret;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	if (!may_pin(handle, flags)) {
		ret = -EINVAL;
		goto out;
	}

	dma_resv_lock(handle->dmabuf->resv, NULL);
	ret = dma_buf_pin(handle->attach);
	ref_result(ret, pin);
	if (!handle->dynamic)
		ref_inc(pin_static);
	if (!ret)
		handle->pins++;
	dma_resv_unlock(handle->dmabuf->resv);
out:
	ref_handle_unlock(handle);
	return ret;
}

int ref_unpin(struct ref_file *file, u32 id, u32 flags)
{
	struct ref_handle *handle = ref_handle_lock(file, id);
	int ret = 0;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	if (handle->pins && may_pin(handle, flags)) {
		dma_resv_lock(handle->dmabuf->resv, NULL);
		unpin_once(handle);
		dma_resv_unlock(handle->dmabuf->resv);
	} else {
		ret = -EINVAL;
	}
	ref_handle_unlock(handle);
	return ret;
}
