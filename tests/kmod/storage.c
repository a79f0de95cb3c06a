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
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
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
	return layout_fits(buf, dev) && buf->last_byte <= dma_get_mask(dev);
}

void ref_storage_free(struct ref_buffer *buf)
{
	unsigned int i;

	if (!buf->pages)
		return;
	for (i = 0; i < buf->nr_pages && buf->pages[i]; i++)
		__free_page(buf->pages[i]);
	kvfree(buf->pages);
	buf->pages = NULL;
	atomic64_sub(buf->nr_pages, REF_COUNTER(live_pages));
}

static int fill_pages(struct ref_buffer *buf, gfp_t gfp)
{
	unsigned int i;
	void *block;

	if (!buf->contiguous) {
		for (i = 0; i < buf->nr_pages; i++) {
			buf->pages[i] = alloc_page(gfp);
			if (!buf->pages[i])
				return -ENOMEM;
		}
		return 0;
	}

	/* Single pages afterwards: user mappings need a count in each one. */
	block = alloc_pages_exact(ref_buffer_size(buf), gfp);
	if (!block)
		return -ENOMEM;
	for (i = 0; i < buf->nr_pages; i++)
		buf->pages[i] = virt_to_page(block + i * PAGE_SIZE);
	return 0;
}

static phys_addr_t last_byte(struct page *page)
{
	return page_to_phys(page) + PAGE_SIZE - 1;
}

static int alloc_storage(struct ref_buffer *buf, u64 mask)
{
	/* A test's buffer must fail rather than summon the OOM killer. */
	gfp_t gfp = GFP_KERNEL | __GFP_ZERO | __GFP_NORETRY | __GFP_NOWARN;
	unsigned int i;
	int ret = -ENOMEM;

	if (mask < DMA_BIT_MASK(32))
		gfp |= GFP_DMA;
	else if (mask < DMA_BIT_MASK(64))
		gfp |= GFP_DMA32;

	if (atomic64_add_return(buf->nr_pages, REF_COUNTER(live_pages)) >
	    totalram_pages() / 4)
		goto err_uncount;
	buf->pages = kvcalloc(buf->nr_pages, sizeof(*buf->pages), GFP_KERNEL);
	if (!buf->pages)
		goto err_uncount;

	ret = fill_pages(buf, gfp);
	if (ret)
		goto err_free;

	buf->last_byte = 0;
	for (i = 0; i < buf->nr_pages; i++)
		buf->last_byte = max(buf->last_byte, last_byte(buf->pages[i]));
	if (buf->last_byte > mask) {
		ret = -ENOMEM;
		goto err_free;
	}
	return 0;

err_free:
	ref_storage_free(buf);
	return ret;

err_uncount:
	atomic64_sub(buf->nr_pages, REF_COUNTER(live_pages));
	return ret;
}

/* Late allocation: now all devices that attached so far have their say. */
int ref_storage_ensure(struct ref_buffer *buf)
{
	const bool asked = buf->contiguous;
	struct ref_attachment *attachment;
	u64 mask = DMA_BIT_MASK(64);
	int ret;

	lockdep_assert_held(&buf->lock);
	if (buf->pages)
		return 0;

	list_for_each_entry(attachment, &buf->attachments, node) {
		mask = min(mask, dma_get_mask(attachment->dev));
		if (!layout_fits(buf, attachment->dev))
			buf->contiguous = true;
	}

	ret = alloc_storage(buf, mask);
	if (ret)
		buf->contiguous = asked;
	return ret;
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

