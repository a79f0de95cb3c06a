// SPDX-License-Identifier: GPL-2.0
/*
 * What makes an exporter a dynamic one: pins.
 *
 * The core asks for a pin on behalf of an importer that cannot be told of a
 * move, while it is mapped or, up to 6.15, attached; others ask by
 * dma_buf_pin(). The dma_resv lock is held in both.
 */
#include <linux/dma-resv.h>
#include <linux/err.h>
#include <linux/mutex.h>

#include "internal.h"

int ref_op_pin(struct dma_buf_attachment *attach)
{
	struct ref_buffer *buf = attach->dmabuf->priv;
	int ret;

	dma_resv_assert_held(attach->dmabuf->resv);
	ret = ref_fault(DMABUF_REF_OP_PIN);
	if (!ret) {
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
	mutex_lock(&buf->lock);
	buf->pins--;
	mutex_unlock(&buf->lock);
	ref_inc(op_unpin);
}
