// SPDX-License-Identifier: GPL-2.0
/*
 * Fences that signal when asked: after a time, by SIGNAL, or with the file
 * that made them.
 *
 * A fence outlives file and buffer in the hands of others, of a sync_file for
 * example. Its operations are code of this module, so it keeps that loaded.
 */
#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/stddef.h>
#include <linux/workqueue.h>

#include "handle.h"

static_assert(DMABUF_REF_USAGE_KERNEL == (int)DMA_RESV_USAGE_KERNEL);
static_assert(DMABUF_REF_USAGE_WRITE == (int)DMA_RESV_USAGE_WRITE);
static_assert(DMABUF_REF_USAGE_READ == (int)DMA_RESV_USAGE_READ);
static_assert(DMABUF_REF_USAGE_BOOKKEEP == (int)DMA_RESV_USAGE_BOOKKEEP);

struct ref_fence {
	struct dma_fence base;
	spinlock_t lock;	/* what base protects itself with */
	struct delayed_work timeout;
};

/* dma_fence_free() takes the one for the other. */
static_assert(!offsetof(struct ref_fence, base));

static const char *fence_driver_name(struct dma_fence *base)
{
	return KBUILD_MODNAME;
}

static const char *fence_timeline_name(struct dma_fence *base)
{
	return "on request";
}

static void fence_release(struct dma_fence *base)
{
	dma_fence_free(base);
	ref_dec(live_fences);
	module_put(THIS_MODULE);
}

static const struct dma_fence_ops fence_ops = {
	.get_driver_name = fence_driver_name,
	.get_timeline_name = fence_timeline_name,
	.release = fence_release,
};

/* Never called twice at once. Counts first: a waiter must find it counted. */
static void signal_fence(struct ref_fence *fence)
{
	if (dma_fence_is_signaled(&fence->base))
		return;
	ref_dec(pending_fences);
	ref_inc(fence_signalled);
	dma_fence_signal(&fence->base);
}

static void on_timeout(struct work_struct *work)
{
	signal_fence(container_of(to_delayed_work(work), struct ref_fence,
				  timeout));
}

/* Drops the reference of the table, which the fence is in no longer. */
static void end_fence(struct ref_fence *fence)
{
	cancel_delayed_work_sync(&fence->timeout);
	signal_fence(fence);
	dma_fence_put(&fence->base);
}

static struct ref_fence *alloc_fence(void)
{
	struct ref_fence *fence = kzalloc(sizeof(*fence), GFP_KERNEL);

	if (!fence)
		return NULL;
	spin_lock_init(&fence->lock);
	INIT_DELAYED_WORK(&fence->timeout, on_timeout);
	return fence;
}

/* From here on its reference count frees it. */
static void init_fence(struct ref_fence *fence)
{
	__module_get(THIS_MODULE);
	/* A context of its own: fences of one would have to signal in order. */
	dma_fence_init(&fence->base, &fence_ops, &fence->lock,
		       dma_fence_context_alloc(1), 1);
	ref_inc(fence_created);
	ref_inc(pending_fences);
	ref_inc(live_fences);
}

static int add_fence(struct dma_resv *resv, struct ref_fence *fence, u32 usage)
{
	int ret;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;

	ret = dma_resv_reserve_fences(resv, 1);
	if (!ret) {
		init_fence(fence);
		dma_resv_add_fence(resv, &fence->base, usage);
	}
	dma_resv_unlock(resv);
	return ret;
}

static int create_fence(struct ref_file *file, struct dma_buf *dmabuf,
			const struct dmabuf_ref_fence *req)
{
	struct ref_fence *fence;
	u32 id;
	int ret;

	fence = alloc_fence();
	if (!fence)
		return -ENOMEM;

	/* The number first, and the fence when it is complete: never half. */
	ret = xa_alloc(&file->fences, &id, NULL, XA_LIMIT(1, INT_MAX),
		       GFP_KERNEL);
	if (ret)
		goto err_free;
	ret = add_fence(dmabuf->resv, fence, req->usage);
	if (ret)
		goto err_release;

	if (req->delay_us)
		schedule_delayed_work(&fence->timeout,
				      usecs_to_jiffies(req->delay_us));
	/* Cannot fail: the place is reserved. */
	xa_store(&file->fences, id, fence, GFP_KERNEL);
	return id;

err_release:
	xa_release(&file->fences, id);
err_free:
	kfree(fence);
	return ret;
}

int ref_fence(struct ref_file *file, const struct dmabuf_ref_fence *req)
{
	struct dma_buf *dmabuf;
	int ret;

	if (req->usage > DMABUF_REF_USAGE_BOOKKEEP ||
	    req->delay_us > DMABUF_REF_MAX_DELAY_US)
		return -EINVAL;

	dmabuf = ref_dmabuf_get(req->fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	ret = create_fence(file, dmabuf, req);
	ref_dmabuf_put(dmabuf);
	return ret;
}

int ref_signal(struct ref_file *file, u32 id)
{
	struct ref_fence *fence;

	/* Not xa_erase() alone: it would take a reserved place, too. */
	xa_lock(&file->fences);
	fence = xa_load(&file->fences, id);
	if (fence)
		__xa_erase(&file->fences, id);
	xa_unlock(&file->fences);

	if (!fence)
		return -ENOENT;
	end_fence(fence);
	return 0;
}

/* For the last close of a file: no ioctl of it can be running. */
void ref_fences_end(struct ref_file *file)
{
	struct ref_fence *fence;
	unsigned long id;

	xa_for_each(&file->fences, id, fence)
		end_fence(fence);
	xa_destroy(&file->fences);
}

/* No fence is left, but the release of the last may still be returning. */
void ref_fences_exit(void)
{
	synchronize_rcu_tasks();
}
