/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Handles: the attachments of importer devices that user space makes, to any
 * dma-buf. Only handle.c, import.c and leak.c know what is in them.
 *
 * Locks: ref_handle.lock serialises what user space does with one attachment.
 * It is taken before any lock of the dma-buf core, and never under mmap_lock.
 * Only a gate or a slow exporter makes it wait, so waiting for it is killable.
 */
#ifndef DMABUF_REF_HANDLE_H
#define DMABUF_REF_HANDLE_H

#include <linux/iosys-map.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>

#include "internal.h"

/**
 * struct ref_handle - an attachment
 * @ref: the table's, and each user's
 * @lock: protects all below that is not constant
 * @gone: detached or leaked: not in a table
 * @dynamic: the importer is a dynamic one; constant
 * @lazy: told of a move, it unmaps before its next map, not at once; constant
 * @p2p: the importer asks for peer-to-peer; constant
 * @stale: it was told, and has not; under the dma_resv lock
 * @dmabuf: with a reference; constant
 * @attach: constant
 * @mappings: list of struct ref_import (import.c), newest first; of a dynamic
 *	importer, changed under the dma_resv lock: a move can come at any time
 * @pins: made by PIN
 * @vmap: where the kernel sees the buffer
 * @vmap_count: how often it was asked to
 * @leak: in leak.c's list
 */
struct ref_handle {
	struct kref ref;
	struct mutex lock;
	bool gone;
	bool dynamic;
	bool lazy;
	bool p2p;
	bool stale;
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	struct list_head mappings;
	unsigned int pins;
	struct iosys_map vmap;
	unsigned int vmap_count;
	struct list_head leak;
};

/* handle.c */
struct dma_buf *ref_dmabuf_get(int fd);
void ref_dmabuf_put(struct dma_buf *dmabuf);
struct ref_handle *ref_handle_lock(struct ref_file *file, u32 id);
void ref_handle_unlock(struct ref_handle *handle);
void ref_handle_take(struct ref_file *file, u32 id, struct ref_handle *handle);
void ref_handle_destroy(struct ref_handle *handle);

/* import.c */
struct dma_buf_attachment *ref_import_attach(struct ref_handle *handle,
					     struct device *dev);
bool ref_import_in_use(const struct ref_handle *handle);
void ref_import_end(struct ref_handle *handle);
void ref_import_leave(struct ref_handle *handle);

#endif /* DMABUF_REF_HANDLE_H */
