// SPDX-License-Identifier: GPL-2.0
/*
 * A buffer's storage: pages, allocated late, in a layout that all devices
 * attached by then can use.
 *
 * A scattered buffer is described page by page even where the allocator
 * happened to return neighbours: which devices it fits, and how many segments
 * they see, shall not depend on luck.
 */
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/slab.h>

#include "internal.h"

/*
 * The longest segment of the buffer that a device may see: a multiple of the
 * page size, or 0 if the device takes no whole page.
 */
size_t ref_segment_size(const struct ref_buffer *buf, struct device *dev)
{
	size_t size = dma_get_max_seg_size(dev) & PAGE_MASK;

	return buf->contiguous ? size : min_t(size_t, size, PAGE_SIZE);
}

static bool layout_fits(const struct ref_buffer *buf, struct device *dev)
{
	const size_t segment = ref_segment_size(buf, dev);
	const size_t size = ref_buffer_size(buf);

	return segment &&
	       DIV_ROUND_UP(size, segment) <= ref_importer_max_segments(dev);
}

/*
 * Can a device use the storage that exists?
 *
 * Compares with the CPU's address: right for dma-direct, and only stricter
 * than needed where an IOMMU could bring the pages into the device's reach.
 */
bool ref_storage_fits(const struct ref_buffer *buf, struct device *dev)
{
	return layout_fits(buf, dev) &&
	       buf->storage->last_byte <= dma_get_mask(dev);
}

static void free_storage(struct kref *ref)
{
	struct ref_storage *storage;
	unsigned int i;

	storage = container_of(ref, struct ref_storage, ref);

	for (i = 0; i < storage->nr_pages && storage->pages[i]; i++)
		__free_page(storage->pages[i]);
	atomic64_sub(storage->nr_pages, REF_COUNTER(live_pages));
	kvfree(storage);
}

struct ref_storage *ref_storage_get(struct ref_storage *storage)
{
	kref_get(&storage->ref);
	return storage;
}

void ref_storage_put(struct ref_storage *storage)
{
	if (storage)
		kref_put(&storage->ref, free_storage);
}

static int fill_pages(struct ref_storage *storage, bool contiguous, gfp_t gfp)
{
	unsigned int i;
	void *block;

	if (!contiguous) {
		for (i = 0; i < storage->nr_pages; i++) {
			storage->pages[i] = alloc_page(gfp);
			if (!storage->pages[i])
				return -ENOMEM;
		}
		return 0;
	}

	/* Single pages afterwards: user mappings need a count in each one. */
	block = alloc_pages_exact((size_t)storage->nr_pages << PAGE_SHIFT, gfp);
	if (!block)
		return -ENOMEM;
	for (i = 0; i < storage->nr_pages; i++)
		storage->pages[i] = virt_to_page(block + i * PAGE_SIZE);
	return 0;
}

static phys_addr_t last_byte(struct page *page)
{
	return page_to_phys(page) + PAGE_SIZE - 1;
}

static struct ref_storage *alloc_storage(unsigned int nr_pages, bool contiguous,
					 u64 mask)
{
	/* A test's buffer must fail rather than summon the OOM killer. */
	gfp_t gfp = GFP_KERNEL | __GFP_ZERO | __GFP_NORETRY | __GFP_NOWARN;
	struct ref_storage *storage;
	unsigned int i;
	int ret;

	if (mask < DMA_BIT_MASK(32))
		gfp |= GFP_DMA;
	else if (mask < DMA_BIT_MASK(64))
		gfp |= GFP_DMA32;

	storage = kvzalloc(struct_size(storage, pages, nr_pages), GFP_KERNEL);
	if (!storage)
		return ERR_PTR(-ENOMEM);
	kref_init(&storage->ref);
	storage->nr_pages = nr_pages;

	ret = -ENOMEM;
	if (atomic64_add_return(nr_pages, REF_COUNTER(live_pages)) >
	    totalram_pages() / 4)
		goto err_put;
	ret = fill_pages(storage, contiguous, gfp);
	if (ret)
		goto err_put;

	for (i = 0; i < nr_pages; i++)
		storage->last_byte = max(storage->last_byte,
					 last_byte(storage->pages[i]));
	if (storage->last_byte > mask) {
		ret = -ENOMEM;
		goto err_put;
	}
	return storage;

err_put:
	ref_storage_put(storage);
	return ERR_PTR(ret);
}

/**
 * ref_storage_alloc - new storage that all devices attached so far can use
 * @buf: takes the layout that they need, and not yet the storage
 *
 * Return: the storage with one reference, or an ERR_PTR.
 */
struct ref_storage *ref_storage_alloc(struct ref_buffer *buf)
{
	const bool asked = buf->contiguous;
	struct ref_attachment *attachment;
	struct ref_storage *storage;
	u64 mask = DMA_BIT_MASK(64);

	lockdep_assert_held(&buf->lock);
	list_for_each_entry(attachment, &buf->attachments, node) {
		mask = min(mask, dma_get_mask(attachment->dev));
		if (!layout_fits(buf, attachment->dev))
			buf->contiguous = true;
	}

	storage = alloc_storage(buf->nr_pages, buf->contiguous, mask);
	if (IS_ERR(storage))
		buf->contiguous = asked;
	return storage;
}

/* Late allocation: now all devices that attached so far have their say. */
int ref_storage_ensure(struct ref_buffer *buf)
{
	struct ref_storage *storage;

	lockdep_assert_held(&buf->lock);
	if (buf->storage)
		return 0;

	storage = ref_storage_alloc(buf);
	if (IS_ERR(storage))
		return PTR_ERR(storage);
	buf->storage = storage;
	return 0;
}

/* Is there any layout that a device could use? */
bool ref_storage_can_fit(const struct ref_buffer *buf, struct device *dev)
{
	const struct ref_buffer best = {
		.nr_pages = buf->nr_pages,
		.contiguous = true,
	};

	return layout_fits(&best, dev);
}

