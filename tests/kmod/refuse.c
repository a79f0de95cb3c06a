// SPDX-License-Identifier: GPL-2.0
/*
 * While this is loaded the kernel refuses kprobes on these functions, as it does on those of its
 * own list: what a tool misses then is what it must not be silent about.
 */
#include <linux/dma-buf.h>
#include <linux/kprobes.h>
#include <linux/module.h>

NOKPROBE_SYMBOL(dma_buf_unmap_attachment);

MODULE_DESCRIPTION("Has the kernel refuse probes");
MODULE_AUTHOR("dmabuf-trace");
MODULE_LICENSE("GPL");
MODULE_INFO(import_ns, "DMA_BUF");
