// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/dmabuf_ref: takes requests from user space, checks them, and has the
 * exporter, the importers or the faults do what they state.
 */
#include <linux/bitops.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

atomic64_t ref_counters[REF_NR_COUNTERS];

static int ioctl_export(struct dmabuf_ref_export __user *arg)
{
	struct dmabuf_ref_export req;
	struct dma_buf *dmabuf;
	int fd;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (!req.size || req.size > DMABUF_REF_MAX_SIZE || req.reserved ||
	    req.flags & ~(DMABUF_REF_READONLY | DMABUF_REF_EAGER |
			  DMABUF_REF_CONTIGUOUS | DMABUF_REF_DYNAMIC |
			  DMABUF_REF_CARELESS | DMABUF_REF_NO_P2P |
			  DMABUF_REF_INCOMPLETE))
		return -EINVAL;
	if ((req.flags & DMABUF_REF_INCOMPLETE) &&
	    req.flags != DMABUF_REF_INCOMPLETE)
		return -EINVAL;
	if ((req.flags & DMABUF_REF_CARELESS) &&
	    !(req.flags & DMABUF_REF_DYNAMIC))
		return -EINVAL;

	dmabuf = ref_export(PAGE_ALIGN(req.size), req.flags);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	/*
	 * The fd comes last, as the return value: once it is installed another
	 * thread can close it, so nothing may touch the buffer or fail.
	 */
	req.size = dmabuf->size;
	req.ino = file_inode(dmabuf->file)->i_ino;
	if (copy_to_user(arg, &req, sizeof(req))) {
		fd = -EFAULT;
		goto err_put;
	}

	fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	ref_result(fd < 0, fd);
	if (fd < 0)
		goto err_put;
	return fd;

err_put:
	dma_buf_put(dmabuf);
	ref_inc(put);
	return fd;
}

static int ioctl_attach(struct ref_file *file,
			struct dmabuf_ref_attach __user *arg)
{
	struct dmabuf_ref_attach req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	return ref_attach(file, &req);
}

/* Of which one at most may be given. */
static u32 flags_of(unsigned int cmd)
{
	switch (cmd) {
	case DMABUF_REF_DETACH:
		return DMABUF_REF_FORCE | DMABUF_REF_LEAVE | DMABUF_REF_FORGET;
	case DMABUF_REF_UNMAP:
		return DMABUF_REF_OTHERWISE | DMABUF_REF_NOTHING;
	case DMABUF_REF_PIN:
	case DMABUF_REF_UNPIN:
		return DMABUF_REF_STATIC;
	default:
		return 0;
	}
}

static int ioctl_handle(struct ref_file *file, unsigned int cmd,
			struct dmabuf_ref_handle __user *arg)
{
	struct dmabuf_ref_handle req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.flags & ~flags_of(cmd) || hweight32(req.flags) > 1)
		return -EINVAL;

	switch (cmd) {
	case DMABUF_REF_UNMAP:
		return ref_unmap(file, req.handle, req.flags);
	case DMABUF_REF_VMAP:
		return ref_vmap(file, req.handle);
	case DMABUF_REF_VUNMAP:
		return ref_vunmap(file, req.handle);
	case DMABUF_REF_DETACH:
		return ref_detach(file, req.handle, req.flags);
	case DMABUF_REF_LEAK:
		return ref_leak(file, req.handle);
	case DMABUF_REF_PIN:
		return ref_pin(file, req.handle, req.flags);
	case DMABUF_REF_UNPIN:
		return ref_unpin(file, req.handle, req.flags);
	default:
		return -ENOTTY;
	}
}

static int ioctl_number(struct ref_file *file, unsigned int cmd,
			__s32 __user *arg)
{
	__s32 number;

	if (get_user(number, arg))
		return -EFAULT;

	switch (cmd) {
	case DMABUF_REF_LEAK_REF:
		return ref_leak_ref(number);
	case DMABUF_REF_MOVE:
		return ref_move(number);
	case DMABUF_REF_SIGNAL:
		return ref_signal(file, number);
	case DMABUF_REF_WRAP:
		return ref_wrap(number);
	default:
		return -ENOTTY;
	}
}

static int ioctl_fence(struct ref_file *file,
		       struct dmabuf_ref_fence __user *arg)
{
	struct dmabuf_ref_fence req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	return ref_fence(file, &req);
}

static int ioctl_inject(struct ref_file *file,
			struct dmabuf_ref_inject __user *arg)
{
	struct dmabuf_ref_inject req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	return ref_inject(file, &req);
}

static int ioctl_gate(struct ref_file *file, struct dmabuf_ref_gate __user *arg)
{
	struct dmabuf_ref_gate req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	return ref_gate(file, &req);
}

static int ioctl_counters(struct dmabuf_ref_counters __user *arg)
{
	__u64 now[REF_NR_COUNTERS];
	size_t i;

	for (i = 0; i < REF_NR_COUNTERS; i++)
		now[i] = atomic64_read(&ref_counters[i]);
	return copy_to_user(arg, now, sizeof(now)) ? -EFAULT : 0;
}

static long ref_ioctl(struct file *filp, unsigned int cmd, unsigned long user)
{
	struct ref_file *file = filp->private_data;
	void __user *arg = (void __user *)user;

	switch (cmd) {
	case DMABUF_REF_EXPORT:
		return ioctl_export(arg);
	case DMABUF_REF_ATTACH:
		return ioctl_attach(file, arg);
	case DMABUF_REF_MAP:
		return ref_map(file, arg);
	case DMABUF_REF_UNMAP:
	case DMABUF_REF_VMAP:
	case DMABUF_REF_VUNMAP:
	case DMABUF_REF_DETACH:
	case DMABUF_REF_LEAK:
	case DMABUF_REF_PIN:
	case DMABUF_REF_UNPIN:
		return ioctl_handle(file, cmd, arg);
	case DMABUF_REF_LEAK_REF:
	case DMABUF_REF_MOVE:
	case DMABUF_REF_SIGNAL:
	case DMABUF_REF_WRAP:
		return ioctl_number(file, cmd, arg);
	case DMABUF_REF_FENCE:
		return ioctl_fence(file, arg);
	case DMABUF_REF_UNDO_LEAKS:
		return ref_undo_leaks();
	case DMABUF_REF_INJECT:
		return ioctl_inject(file, arg);
	case DMABUF_REF_GATE:
		return ioctl_gate(file, arg);
	case DMABUF_REF_COUNTERS:
		return ioctl_counters(arg);
	default:
		return -ENOTTY;
	}
}

static int ref_open(struct inode *inode, struct file *filp)
{
	struct ref_file *file;

	file = kzalloc(sizeof(*file), GFP_KERNEL);
	if (!file)
		return -ENOMEM;
	xa_init_flags(&file->handles, XA_FLAGS_ALLOC1);
	xa_init_flags(&file->fences, XA_FLAGS_ALLOC1);
	filp->private_data = file;
	return 0;
}

static int ref_release(struct inode *inode, struct file *filp)
{
	struct ref_file *file = filp->private_data;

	/* Its gates first: they could hold up its own detaching. */
	ref_faults_end(file);
	ref_fences_end(file);
	ref_detach_all(file);
	kfree(file);
	return 0;
}

static const struct file_operations ref_fops = {
	.owner = THIS_MODULE,
	.open = ref_open,
	.release = ref_release,
	.unlocked_ioctl = ref_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice ref_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmabuf_ref",
	.mode = 0600,
	.fops = &ref_fops,
};

static int __init ref_init(void)
{
	int ret;

	ref_faults_init();
	ret = ref_importers_register();
	if (ret)
		return ret;

	ret = misc_register(&ref_misc);
	if (ret)
		ref_importers_unregister();
	return ret;
}

static void __exit ref_exit(void)
{
	misc_deregister(&ref_misc);
	ref_importers_unregister();
	ref_fences_exit();
}

module_init(ref_init);
module_exit(ref_exit);

MODULE_DESCRIPTION("Reference dma-buf exporter and importers for tests");
MODULE_AUTHOR("dmabuf-trace");
MODULE_LICENSE("GPL");
/* MODULE_IMPORT_NS() takes a token up to 6.12 and a string from 6.13 on. */
MODULE_INFO(import_ns, "DMA_BUF");
