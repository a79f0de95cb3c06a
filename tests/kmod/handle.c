// SPDX-License-Identifier: GPL-2.0
/*
 * The table of handles, their life, and the references to dma-bufs they hold.
 */
#include <linux/err.h>
#include <linux/slab.h>

#include "handle.h"

struct dma_buf *ref_dmabuf_get(int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);

	ref_result(IS_ERR(dmabuf), get);
	return dmabuf;
}

void ref_dmabuf_put(struct dma_buf *dmabuf)
{
	dma_buf_put(dmabuf);
	ref_inc(put);
}

static void handle_free(struct kref *ref)
{
	struct ref_handle *handle = container_of(ref, struct ref_handle, ref);

	mutex_destroy(&handle->lock);
	kfree(handle);
}

void ref_handle_unlock(struct ref_handle *handle)
{
	mutex_unlock(&handle->lock);
	kref_put(&handle->ref, handle_free);
}

/*
 * Whoever holds the lock may use the attachment: a handle that was detached or
 * leaked while we waited is as unknown as one that never was.
 */
struct ref_handle *ref_handle_lock(struct ref_file *file, u32 id)
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
		ref_handle_unlock(handle);
		return ERR_PTR(-ENOENT);
	}
	return handle;
}

/* Takes a locked handle and the table's reference to it out of the table. */
void ref_handle_take(struct ref_file *file, u32 id, struct ref_handle *handle)
{
	lockdep_assert_held(&handle->lock);
	handle->gone = true;
	xa_erase(&file->handles, id);
}

/* Drops the reference that the table or a list had. */
static void handle_end(struct ref_handle *handle)
{
	ref_dmabuf_put(handle->dmabuf);
	ref_dec(live_handles);
	kref_put(&handle->ref, handle_free);
}

/* Undoes ATTACH. */
void ref_handle_destroy(struct ref_handle *handle)
{
	ref_import_end(handle);
	dma_buf_detach(handle->dmabuf, handle->attach);
	ref_inc(detach);
	handle_end(handle);
}

/* A misuse: the attachment stays, and outlives its buffer. */
static void handle_forget(struct ref_handle *handle)
{
	ref_import_end(handle);
	ref_inc(forgotten);
	handle_end(handle);
}

static struct ref_handle *handle_create(const struct dmabuf_ref_attach *req)
{
	struct ref_handle *handle;
	int ret;

	handle = kzalloc(sizeof(*handle), GFP_KERNEL);
	if (!handle)
		return ERR_PTR(-ENOMEM);
	kref_init(&handle->ref);
	mutex_init(&handle->lock);
	INIT_LIST_HEAD(&handle->mappings);
	handle->dynamic = req->flags & DMABUF_REF_DYNAMIC_IMPORTER;
	handle->lazy = req->flags & DMABUF_REF_LAZY;
	handle->p2p = req->flags & DMABUF_REF_P2P;

	handle->dmabuf = ref_dmabuf_get(req->fd);
	if (IS_ERR(handle->dmabuf)) {
		ret = PTR_ERR(handle->dmabuf);
		goto err_free;
	}

	handle->attach = ref_import_attach(handle,
					   ref_importer_device(req->importer));
	if (IS_ERR(handle->attach)) {
		ret = PTR_ERR(handle->attach);
		goto err_put;
	}

	ref_inc(live_handles);
	return handle;

err_put:
	ref_dmabuf_put(handle->dmabuf);
err_free:
	kref_put(&handle->ref, handle_free);
	return ERR_PTR(ret);
}

int ref_attach(struct ref_file *file, const struct dmabuf_ref_attach *req)
{
	struct ref_handle *handle;
	u32 id;
	int ret;

	if (req->importer >= DMABUF_REF_NR_IMPORTERS || req->reserved ||
	    req->flags & ~(DMABUF_REF_DYNAMIC_IMPORTER | DMABUF_REF_LAZY |
			   DMABUF_REF_P2P))
		return -EINVAL;
	/* The others are ways to be a dynamic importer. */
	if (req->flags && !(req->flags & DMABUF_REF_DYNAMIC_IMPORTER))
		return -EINVAL;

	handle = handle_create(req);
	if (IS_ERR(handle))
		return PTR_ERR(handle);

	ret = xa_alloc(&file->handles, &id, handle, XA_LIMIT(1, INT_MAX),
		       GFP_KERNEL);
	if (ret) {
		ref_handle_destroy(handle);
		return ret;
	}
	return id;
}

static int may_detach(const struct ref_handle *handle, u32 flags)
{
	switch (flags) {
	case DMABUF_REF_FORCE:
		return 0;
	case DMABUF_REF_LEAVE:
		return ref_is_own(handle->dmabuf) ? 0 : -EINVAL;
	case DMABUF_REF_FORGET:
		/* A dynamic one would be told of moves when it is gone. */
		return ref_is_own(handle->dmabuf) && !handle->dynamic ?
			0 : -EINVAL;
	default:
		return ref_import_in_use(handle) ? -EBUSY : 0;
	}
}

int ref_detach(struct ref_file *file, u32 id, u32 flags)
{
	struct ref_handle *handle = ref_handle_lock(file, id);
	int ret;

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	ret = may_detach(handle, flags);
	if (!ret) {
		ref_handle_take(file, id, handle);
		if (flags & DMABUF_REF_LEAVE)
			ref_import_leave(handle);
		if (flags & DMABUF_REF_FORGET)
			handle_forget(handle);
		else
			ref_handle_destroy(handle);
	}
	ref_handle_unlock(handle);
	return ret;
}

/* For the last close of a file: no ioctl of it can be running. */
void ref_detach_all(struct ref_file *file)
{
	struct ref_handle *handle;
	unsigned long id;

	xa_for_each(&file->handles, id, handle)
		ref_handle_destroy(handle);
	xa_destroy(&file->handles);
}
