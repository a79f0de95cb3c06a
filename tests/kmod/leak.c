// SPDX-License-Identifier: GPL-2.0
/*
 * Leaks: attachments and references that outlive the file they were made by.
 *
 * Each keeps the module loaded; the caller's open file of the device does so
 * until then, and while they are undone.
 */
#include <linux/err.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>

#include "handle.h"

struct ref_leaked_ref {
	struct list_head node;
	struct dma_buf *dmabuf;
};

static DEFINE_MUTEX(leaks_lock);	/* protects both lists */
static LIST_HEAD(leaked_handles);
static LIST_HEAD(leaked_refs);

int ref_leak(struct ref_file *file, u32 id)
{
	struct ref_handle *handle = ref_handle_lock(file, id);

	if (IS_ERR(handle))
		return PTR_ERR(handle);

	ref_handle_take(file, id, handle);
	__module_get(THIS_MODULE);
	ref_inc(leaked_attachments);
	mutex_lock(&leaks_lock);
	list_add_tail(&handle->leak, &leaked_handles);
	mutex_unlock(&leaks_lock);
	ref_handle_unlock(handle);
	return 0;
}

int ref_leak_ref(int fd)
{
	struct ref_leaked_ref *leak;

	leak = kzalloc(sizeof(*leak), GFP_KERNEL);
	if (!leak)
		return -ENOMEM;

	leak->dmabuf = ref_dmabuf_get(fd);
	if (IS_ERR(leak->dmabuf)) {
		int ret = PTR_ERR(leak->dmabuf);

		kfree(leak);
		return ret;
	}

	__module_get(THIS_MODULE);
	ref_inc(leaked_refs);
	mutex_lock(&leaks_lock);
	list_add_tail(&leak->node, &leaked_refs);
	mutex_unlock(&leaks_lock);
	return 0;
}

/**
 * ref_undo_leaks - release all that LEAK and LEAK_REF of any file kept
 *
 * Return: how many.
 */
int ref_undo_leaks(void)
{
	struct ref_leaked_ref *leak, *next_leak;
	struct ref_handle *handle, *next_handle;
	LIST_HEAD(handles);
	LIST_HEAD(refs);
	int undone = 0;

	mutex_lock(&leaks_lock);
	list_splice_init(&leaked_handles, &handles);
	list_splice_init(&leaked_refs, &refs);
	mutex_unlock(&leaks_lock);

	list_for_each_entry_safe(handle, next_handle, &handles, leak) {
		ref_handle_destroy(handle);
		ref_dec(leaked_attachments);
		module_put(THIS_MODULE);
		undone++;
	}
	list_for_each_entry_safe(leak, next_leak, &refs, node) {
		ref_dmabuf_put(leak->dmabuf);
		kfree(leak);
		ref_dec(leaked_refs);
		module_put(THIS_MODULE);
		undone++;
	}
	return undone;
}
