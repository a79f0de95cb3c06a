// SPDX-License-Identifier: GPL-2.0
/*
 * A second exporter whose buffers have no storage: each stands for a buffer of
 * any exporter, and every operation is handed on to that one. So a call of the
 * core's is made within the same call, on one thread.
 */
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "handle.h"

#define REF_MAX_WRAPS 3		/* within each other: all are on one stack */

/**
 * struct ref_wrap - what a wrapping dma_buf's priv points to
 * @inner: what it stands for, with a reference
 * @depth: wraps that this makes of it, itself included
 */
struct ref_wrap {
	struct dma_buf *inner;
	unsigned int depth;
};

static int wrap_attach(struct dma_buf *dmabuf,
		       struct dma_buf_attachment *attach)
{
	struct ref_wrap *wrap = dmabuf->priv;
	struct dma_buf_attachment *inner;

	inner = dma_buf_attach(wrap->inner, attach->dev);
	ref_result(IS_ERR(inner), attach);
	ref_result(IS_ERR(inner), op_attach);
	if (IS_ERR(inner))
		return PTR_ERR(inner);

	attach->priv = inner;
	ref_inc(live_attachments);
	return 0;
}

static void wrap_detach(struct dma_buf *dmabuf,
			struct dma_buf_attachment *attach)
{
	struct ref_wrap *wrap = dmabuf->priv;

	dma_buf_detach(wrap->inner, attach->priv);
	ref_inc(detach);
	ref_dec(live_attachments);
	ref_inc(op_detach);
}

/* Both buffers have one dma_resv, which the core holds here. */
static struct sg_table *wrap_map(struct dma_buf_attachment *attach,
				 enum dma_data_direction dir)
{
	struct sg_table *sgt;

	sgt = dma_buf_map_attachment(attach->priv, dir);
	ref_result(IS_ERR(sgt), map);
	ref_result(IS_ERR(sgt), op_map);
	if (!IS_ERR(sgt))
		ref_inc(live_maps);
	return sgt;
}

static void wrap_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		       enum dma_data_direction dir)
{
	dma_buf_unmap_attachment(attach->priv, sgt, dir);
	ref_inc(unmap);
	ref_dec(live_maps);
	ref_inc(op_unmap);
}

static void wrap_release(struct dma_buf *dmabuf)
{
	struct ref_wrap *wrap = dmabuf->priv;

	ref_dmabuf_put(wrap->inner);
	kfree(wrap);
	ref_dec(live_buffers);
	ref_inc(op_release);
}

static const struct dma_buf_ops wrap_ops = {
	.attach = wrap_attach,
	.detach = wrap_detach,
	.map_dma_buf = wrap_map,
	.unmap_dma_buf = wrap_unmap,
	.release = wrap_release,
};

static struct ref_wrap *create_wrap(struct dma_buf *inner)
{
	const struct ref_wrap *within = inner->priv;
	struct ref_wrap *wrap;
	unsigned int depth;

	depth = inner->ops == &wrap_ops ? within->depth + 1 : 1;
	if (depth > REF_MAX_WRAPS)
		return ERR_PTR(-ELOOP);

	wrap = kzalloc(sizeof(*wrap), GFP_KERNEL);
	if (!wrap)
		return ERR_PTR(-ENOMEM);
	wrap->inner = inner;
	wrap->depth = depth;
	return wrap;
}

/* Takes over the reference to @inner. */
static struct dma_buf *export_wrap(struct dma_buf *inner)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct dma_buf *dmabuf;
	struct ref_wrap *wrap;

	wrap = create_wrap(inner);
	if (IS_ERR(wrap)) {
		ref_dmabuf_put(inner);
		return ERR_CAST(wrap);
	}

	exp_info.ops = &wrap_ops;
	exp_info.size = inner->size;
	exp_info.flags = O_RDWR;
	exp_info.resv = inner->resv;
	exp_info.priv = wrap;
	ref_inc(live_buffers);
	dmabuf = dma_buf_export(&exp_info);
	ref_result(IS_ERR(dmabuf), export);
	if (IS_ERR(dmabuf)) {
		ref_dec(live_buffers);
		kfree(wrap);
		ref_dmabuf_put(inner);
	}
	return dmabuf;
}

/**
 * ref_wrap - export a buffer that stands for another one
 * @fd: of any dma-buf
 *
 * Return: its fd, or an error.
 */
int ref_wrap(int fd)
{
	struct dma_buf *inner, *dmabuf;
	int wrapped;

	inner = ref_dmabuf_get(fd);
	if (IS_ERR(inner))
		return PTR_ERR(inner);
	dmabuf = export_wrap(inner);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	wrapped = dma_buf_fd(dmabuf, O_CLOEXEC);
	ref_result(wrapped < 0, fd);
	if (wrapped < 0)
		ref_dmabuf_put(dmabuf);
	return wrapped;
}
