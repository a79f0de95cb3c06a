/* SPDX-License-Identifier: GPL-2.0 */
#ifndef DMABUF_REF_INTERNAL_H
#define DMABUF_REF_INTERNAL_H

#include <linux/atomic.h>
#include <linux/device.h>
#include <linux/dma-buf.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/stddef.h>
#include <linux/xarray.h>

#include "dmabuf_ref.h"

/* Kbuild asks the headers: 6.1 has only the one that locks by itself. */
#ifndef REF_HAVE_VMAP_UNLOCKED
#define dma_buf_vmap_unlocked	dma_buf_vmap
#define dma_buf_vunmap_unlocked	dma_buf_vunmap
#endif

/* Kbuild asks the headers: up to 7.0 both were named after the move. */
#ifndef REF_HAVE_INVALIDATE_MAPPINGS
#define invalidate_mappings		move_notify
#define dma_buf_invalidate_mappings	dma_buf_move_notify
#endif

/* struct dmabuf_ref_counters, each field as an atomic64_t (main.c) */
#define REF_NR_COUNTERS (sizeof(struct dmabuf_ref_counters) / sizeof(__u64))
extern atomic64_t ref_counters[REF_NR_COUNTERS];

#define REF_COUNTER(field)						\
	(&ref_counters[offsetof(struct dmabuf_ref_counters, field) /	\
		       sizeof(__u64)])
#define ref_inc(field)	atomic64_inc(REF_COUNTER(field))
#define ref_dec(field)	atomic64_dec(REF_COUNTER(field))
/* counts field_ok or field_failed */
#define ref_result(err, field)						\
	atomic64_inc((err) ? REF_COUNTER(field##_failed) :		\
			     REF_COUNTER(field##_ok))

/**
 * struct ref_file - an open file of /dev/dmabuf_ref
 * @handles: number -> struct ref_handle (handle.c)
 * @fences: number -> struct ref_fence (fence.c)
 */
struct ref_file {
	struct xarray handles;
	struct xarray fences;
};

/* fault.c: what INJECT and GATE asked for; files only as owners */
void ref_faults_init(void);
int ref_fault(enum dmabuf_ref_op op);
int ref_inject(const struct ref_file *owner,
	       const struct dmabuf_ref_inject *req);
int ref_gate(const struct ref_file *owner, const struct dmabuf_ref_gate *req);
void ref_faults_end(const struct ref_file *owner);

/**
 * struct ref_buffer - what a dma_buf's priv points to
 * @lock: protects all below; nests inside the dma_resv lock and mmap_lock
 * @attachments: list of struct ref_attachment
 * @nr_pages: its size, constant
 * @dynamic: it has the operations of dynamic.c, constant
 * @careless: its pins are granted and not counted, constant
 * @no_p2p: it refuses peer-to-peer, constant
 * @pins: while there are any, the storage stays where it is; a vmap is one
 * @contiguous: the layout asked for; once there are pages, the one they have
 * @storage: NULL until first use; replaced when the buffer moves
 */
struct ref_buffer {
	struct mutex lock;
	struct list_head attachments;
	unsigned int nr_pages;
	bool dynamic;
	bool careless;
	bool no_p2p;
	unsigned int pins;
	bool contiguous;
	struct ref_storage *storage;
};

/**
 * struct ref_storage - pages of a buffer
 * @ref: the buffer's, and each device mapping's: after a move the old pages
 *	stay until the last device that may still access them is unmapped
 * @nr_pages: how many
 * @last_byte: highest physical address
 * @pages: each of order 0
 */
struct ref_storage {
	struct kref ref;
	unsigned int nr_pages;
	phys_addr_t last_byte;
	struct page *pages[];
};

/**
 * struct ref_attachment - what an attachment's priv points to
 * @node: in ref_buffer.attachments
 * @dev: the importer
 * @mappings: list of struct ref_mapping (exporter.c)
 */
struct ref_attachment {
	struct list_head node;
	struct device *dev;
	struct list_head mappings;
};

static inline size_t ref_buffer_size(const struct ref_buffer *buf)
{
	return (size_t)buf->nr_pages << PAGE_SHIFT;
}

/* storage.c: what takes a buffer needs its lock held */
struct ref_storage *ref_storage_alloc(struct ref_buffer *buf);
struct ref_storage *ref_storage_get(struct ref_storage *storage);
void ref_storage_put(struct ref_storage *storage);
int ref_storage_ensure(struct ref_buffer *buf);
bool ref_storage_fits(const struct ref_buffer *buf, struct device *dev);
bool ref_storage_can_fit(const struct ref_buffer *buf, struct device *dev);
size_t ref_segment_size(const struct ref_buffer *buf, struct device *dev);

/* exporter.c */
struct dma_buf *ref_export(u64 size, u32 flags);
bool ref_is_own(const struct dma_buf *dmabuf);
struct ref_buffer *ref_dynamic_buffer(struct dma_buf *dmabuf);

/* dynamic.c: the operations that make an exporter a dynamic one */
int ref_op_pin(struct dma_buf_attachment *attach);
void ref_op_unpin(struct dma_buf_attachment *attach);
int ref_dynamic_mmap(struct ref_buffer *buf, struct vm_area_struct *vma);
int ref_move(int fd);

/* importer.c */
int ref_importers_register(void);
void ref_importers_unregister(void);
struct device *ref_importer_device(u32 importer);
unsigned int ref_importer_max_segments(struct device *dev);

/* handle.c */
int ref_attach(struct ref_file *file, const struct dmabuf_ref_attach *req);
int ref_detach(struct ref_file *file, u32 id, u32 flags);
void ref_detach_all(struct ref_file *file);

/* import.c */
int ref_map(struct ref_file *file, struct dmabuf_ref_map __user *arg);
int ref_unmap(struct ref_file *file, u32 id, u32 flags);
int ref_vmap(struct ref_file *file, u32 id);
int ref_vunmap(struct ref_file *file, u32 id);
int ref_pin(struct ref_file *file, u32 id, u32 flags);
int ref_unpin(struct ref_file *file, u32 id, u32 flags);

/* fence.c */
int ref_fence(struct ref_file *file, const struct dmabuf_ref_fence *req);
int ref_signal(struct ref_file *file, u32 id);
void ref_fences_end(struct ref_file *file);
void ref_fences_exit(void);

/* wrap.c */
int ref_wrap(int fd);

/* leak.c */
int ref_leak(struct ref_file *file, u32 id);
int ref_leak_ref(int fd);
int ref_undo_leaks(void);

#endif /* DMABUF_REF_INTERNAL_H */
