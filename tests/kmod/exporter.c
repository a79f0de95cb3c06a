// SPDX-License-Identifier: GPL-2.0
/*
 * The exporter's operations.
 *
 * The core calls map, unmap, vmap and vunmap with the buffer's dma_resv lock
 * held, and all others without it; only ref_buffer.lock is common to them.
 * A fault (a gate, a delay) comes before that lock, so that a stuck operation
 * stops no more than the core's own rules make it stop.
 */
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/iosys-map.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "internal.h"

struct ref_mapping {
	struct list_head node;
	struct sg_table sgt;
	enum dma_data_direction dir;
	struct ref_storage *storage;
};

/* With a direction other than its own where the importer says so. */
static void free_mapping(struct ref_mapping *mapping, struct device *dev,
			 enum dma_data_direction dir)
{
	dma_unmap_sgtable(dev, &mapping->sgt, dir, 0);
	sg_free_table(&mapping->sgt);
	ref_storage_put(mapping->storage);
	kfree(mapping);
	ref_dec(live_maps);
}

/* Attachments */

static int negotiate(struct ref_buffer *buf, struct dma_buf_attachment *attach)
{
	struct ref_attachment *attachment;
	int ret = 0;

	attachment = kzalloc(sizeof(*attachment), GFP_KERNEL);
	if (!attachment)
		return -ENOMEM;
	attachment->dev = attach->dev;
	INIT_LIST_HEAD(&attachment->mappings);

	mutex_lock(&buf->lock);
	if (buf->storage && !ref_storage_fits(buf, attach->dev))
		ret = -EBUSY;
	else if (!ref_storage_can_fit(buf, attach->dev))
		ret = -EINVAL;
	else
		list_add_tail(&attachment->node, &buf->attachments);
	mutex_unlock(&buf->lock);

	if (ret) {
		kfree(attachment);
		return ret;
	}
	attach->priv = attachment;
	/* Set by the core if the importer asks for it; the exporter's to clear. */
	if (buf->no_p2p)
		attach->peer2peer = false;
	ref_inc(live_attachments);
	return 0;
}

/* Takes it out of the buffer, with the mappings that an importer left. */
static void free_attachment(struct ref_buffer *buf,
			    struct ref_attachment *attachment)
{
	struct ref_mapping *mapping, *next;

	mutex_lock(&buf->lock);
	list_del(&attachment->node);
	mutex_unlock(&buf->lock);

	list_for_each_entry_safe(mapping, next, &attachment->mappings, node) {
		free_mapping(mapping, attachment->dev, mapping->dir);
		ref_inc(op_left_maps);
	}
	kfree(attachment);
	ref_dec(live_attachments);
}

static int ref_op_attach(struct dma_buf *dmabuf,
			 struct dma_buf_attachment *attach)
{
	int ret;

	ret = ref_fault(DMABUF_REF_OP_ATTACH);
	if (!ret)
		ret = negotiate(dmabuf->priv, attach);

	ref_result(ret, op_attach);
	return ret;
}

static void ref_op_detach(struct dma_buf *dmabuf,
			  struct dma_buf_attachment *attach)
{
	ref_fault(DMABUF_REF_OP_DETACH);
	free_attachment(dmabuf->priv, attach->priv);
	ref_inc(op_detach);
}

/* Device mappings */

static int fill_mapping(struct ref_buffer *buf, struct device *dev,
			struct ref_mapping *mapping,
			enum dma_data_direction dir)
{
	int ret;

	ret = ref_storage_ensure(buf);
	if (ret)
		return ret;

	ret = sg_alloc_table_from_pages_segment(&mapping->sgt,
						buf->storage->pages,
						buf->nr_pages,
						0, ref_buffer_size(buf),
						ref_segment_size(buf, dev),
						GFP_KERNEL);
	if (ret)
		return ret;

	ret = dma_map_sgtable(dev, &mapping->sgt, dir, 0);
	if (ret)
		sg_free_table(&mapping->sgt);
	else
		mapping->storage = ref_storage_get(buf->storage);
	return ret;
}

static struct sg_table *create_mapping(struct ref_buffer *buf,
				       struct ref_attachment *attachment,
				       enum dma_data_direction dir)
{
	struct ref_mapping *mapping;
	int ret;

	mapping = kzalloc(sizeof(*mapping), GFP_KERNEL);
	if (!mapping)
		return ERR_PTR(-ENOMEM);
	mapping->dir = dir;

	mutex_lock(&buf->lock);
	ret = fill_mapping(buf, attachment->dev, mapping, dir);
	if (!ret)
		list_add_tail(&mapping->node, &attachment->mappings);
	mutex_unlock(&buf->lock);

	if (ret) {
		kfree(mapping);
		return ERR_PTR(ret);
	}
	ref_inc(live_maps);
	return &mapping->sgt;
}

static struct sg_table *ref_op_map(struct dma_buf_attachment *attach,
				   enum dma_data_direction dir)
{
	struct sg_table *sgt;
	int ret;

	ret = ref_fault(DMABUF_REF_OP_MAP);
	if (ret)
		sgt = ERR_PTR(ret);
	else
		sgt = create_mapping(attach->dmabuf->priv, attach->priv, dir);

	ref_result(IS_ERR(sgt), op_map);
	return sgt;
}

static void ref_op_unmap(struct dma_buf_attachment *attach,
			 struct sg_table *sgt, enum dma_data_direction dir)
{
	struct ref_buffer *buf = attach->dmabuf->priv;
	struct ref_mapping *mapping;

	ref_fault(DMABUF_REF_OP_UNMAP);

	mapping = container_of(sgt, struct ref_mapping, sgt);
	mutex_lock(&buf->lock);
	list_del(&mapping->node);
	mutex_unlock(&buf->lock);

	free_mapping(mapping, attach->dev, dir);
	ref_inc(op_unmap);
}

/* CPU access */

static void sync_mappings(struct ref_buffer *buf, enum dma_data_direction dir,
			  void (*sync)(struct device *dev, struct sg_table *sgt,
				       enum dma_data_direction dir))
{
	struct ref_attachment *attachment;
	struct ref_mapping *mapping;

	lockdep_assert_held(&buf->lock);
	list_for_each_entry(attachment, &buf->attachments, node)
		list_for_each_entry(mapping, &attachment->mappings, node)
			sync(attachment->dev, &mapping->sgt, dir);
}

static int ref_op_begin_cpu(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct ref_buffer *buf = dmabuf->priv;
	int ret;

	ret = ref_fault(DMABUF_REF_OP_BEGIN_CPU);
	if (!ret) {
		mutex_lock(&buf->lock);
		ret = ref_storage_ensure(buf);
		if (!ret)
			sync_mappings(buf, dir, dma_sync_sgtable_for_cpu);
		mutex_unlock(&buf->lock);
	}

	ref_result(ret, op_begin);
	return ret;
}

static int ref_op_end_cpu(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct ref_buffer *buf = dmabuf->priv;
	int ret;

	ret = ref_fault(DMABUF_REF_OP_END_CPU);
	if (!ret) {
		mutex_lock(&buf->lock);
		sync_mappings(buf, dir, dma_sync_sgtable_for_device);
		mutex_unlock(&buf->lock);
	}

	ref_result(ret, op_end);
	return ret;
}

static int map_user(struct ref_buffer *buf, struct vm_area_struct *vma)
{
	int ret;

	/*
	 * A private mapping's copies would never reach a device. Not VM_SHARED:
	 * the mm clears that in shared mappings of a read-only file.
	 */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;

	mutex_lock(&buf->lock);
	ret = ref_storage_ensure(buf);
	if (!ret && buf->dynamic)
		ret = ref_dynamic_mmap(buf, vma);
	else if (!ret)
		ret = vm_map_pages(vma, buf->storage->pages, buf->nr_pages);
	mutex_unlock(&buf->lock);
	return ret;
}

static int ref_op_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	int ret;

	ret = ref_fault(DMABUF_REF_OP_MMAP);
	if (!ret)
		ret = map_user(dmabuf->priv, vma);

	ref_result(ret, op_mmap);
	return ret;
}

static int map_kernel(struct ref_buffer *buf, struct iosys_map *map)
{
	void *vaddr;
	int ret;

	mutex_lock(&buf->lock);
	ret = ref_storage_ensure(buf);
	if (!ret) {
		vaddr = vmap(buf->storage->pages, buf->nr_pages, VM_MAP,
			     PAGE_KERNEL);
		if (vaddr) {
			iosys_map_set_vaddr(map, vaddr);
			buf->pins++;
		} else {
			ret = -ENOMEM;
		}
	}
	mutex_unlock(&buf->lock);
	return ret;
}

static int ref_op_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	int ret;

	ref_fault(DMABUF_REF_OP_VMAP);
	ret = map_kernel(dmabuf->priv, map);

	ref_result(ret, op_vmap);
	return ret;
}

static void ref_op_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct ref_buffer *buf = dmabuf->priv;

	ref_fault(DMABUF_REF_OP_VUNMAP);
	vunmap(map->vaddr);
	mutex_lock(&buf->lock);
	buf->pins--;
	mutex_unlock(&buf->lock);
	ref_inc(op_vunmap);
}

/* Buffers */

static void free_buffer(struct ref_buffer *buf)
{
	struct ref_attachment *attachment, *next;

	/* of importers that forgot to detach */
	list_for_each_entry_safe(attachment, next, &buf->attachments, node)
		free_attachment(buf, attachment);
	ref_storage_put(buf->storage);
	mutex_destroy(&buf->lock);
	kfree(buf);
}

static void ref_op_release(struct dma_buf *dmabuf)
{
	ref_fault(DMABUF_REF_OP_RELEASE);
	free_buffer(dmabuf->priv);
	ref_dec(live_buffers);
	ref_inc(op_release);
}

#define REF_COMMON_OPS				\
	.attach = ref_op_attach,		\
	.detach = ref_op_detach,		\
	.map_dma_buf = ref_op_map,		\
	.unmap_dma_buf = ref_op_unmap,		\
	.begin_cpu_access = ref_op_begin_cpu,	\
	.end_cpu_access = ref_op_end_cpu,	\
	.mmap = ref_op_mmap,			\
	.vmap = ref_op_vmap,			\
	.vunmap = ref_op_vunmap,		\
	.release = ref_op_release

static const struct dma_buf_ops ref_ops = {
	REF_COMMON_OPS,
};

/* To the core, an exporter that pins is a dynamic one. */
static const struct dma_buf_ops ref_dynamic_ops = {
	REF_COMMON_OPS,
	.pin = ref_op_pin,
	.unpin = ref_op_unpin,
};

/* A misuse: the core takes either both or neither, and WARNs. */
static const struct dma_buf_ops ref_incomplete_ops = {
	REF_COMMON_OPS,
	.pin = ref_op_pin,
};

/* Is it a buffer of EXPORT? */
bool ref_is_own(const struct dma_buf *dmabuf)
{
	return dmabuf->ops == &ref_ops || dmabuf->ops == &ref_dynamic_ops;
}

/* The buffer behind a dma-buf, or NULL if it is not one of ref_dynamic_ops. */
struct ref_buffer *ref_dynamic_buffer(struct dma_buf *dmabuf)
{
	return dmabuf->ops == &ref_dynamic_ops ? dmabuf->priv : NULL;
}

static struct ref_buffer *create_buffer(u64 size, u32 flags)
{
	struct ref_buffer *buf;
	int ret;

	ret = ref_fault(DMABUF_REF_OP_EXPORT);
	if (ret)
		return ERR_PTR(ret);

	buf = kzalloc(sizeof(*buf), GFP_KERNEL);
	if (!buf)
		return ERR_PTR(-ENOMEM);
	mutex_init(&buf->lock);
	INIT_LIST_HEAD(&buf->attachments);
	buf->nr_pages = size >> PAGE_SHIFT;
	buf->dynamic = flags & DMABUF_REF_DYNAMIC;
	buf->careless = flags & DMABUF_REF_CARELESS;
	buf->no_p2p = flags & DMABUF_REF_NO_P2P;
	buf->contiguous = buf->nr_pages == 1 || (flags & DMABUF_REF_CONTIGUOUS);

	if (flags & DMABUF_REF_EAGER) {
		mutex_lock(&buf->lock);
		ret = ref_storage_ensure(buf);
		mutex_unlock(&buf->lock);
		if (ret) {
			free_buffer(buf);
			return ERR_PTR(ret);
		}
	}
	return buf;
}

static const struct dma_buf_ops *ops_for(u32 flags)
{
	if (flags & DMABUF_REF_INCOMPLETE) {
		ref_inc(export_incomplete);
		return &ref_incomplete_ops;
	}
	return flags & DMABUF_REF_DYNAMIC ? &ref_dynamic_ops : &ref_ops;
}

/**
 * ref_export - create a buffer and its struct dma_buf
 * @size: bytes, a multiple of the page size, within DMABUF_REF_MAX_SIZE
 * @flags: valid flags of struct dmabuf_ref_export
 *
 * Return: the buffer with one reference, for the caller to give to an fd or to
 * put, or an ERR_PTR.
 */
struct dma_buf *ref_export(u64 size, u32 flags)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct ref_buffer *buf;
	struct dma_buf *dmabuf;

	buf = create_buffer(size, flags);
	if (IS_ERR(buf)) {
		ref_inc(export_refused);
		return ERR_CAST(buf);
	}

	exp_info.ops = ops_for(flags);
	exp_info.size = size;
	exp_info.flags = flags & DMABUF_REF_READONLY ? O_RDONLY : O_RDWR;
	exp_info.priv = buf;
	/* Before the export: the buffer is visible to others at once. */
	ref_inc(live_buffers);
	dmabuf = dma_buf_export(&exp_info);
	ref_result(IS_ERR(dmabuf), export);
	if (IS_ERR(dmabuf)) {
		ref_dec(live_buffers);
		free_buffer(buf);
	}
	return dmabuf;
}
