/* SPDX-License-Identifier: GPL-2.0 */
/*
 * dmabuf_ref: a reference dma-buf exporter with importer devices of its own.
 *
 * Every ioctl of /dev/dmabuf_ref makes the kernel do one stated thing, and the
 * counters say what it did. This header is the only definition of both: the
 * module includes it, and a test compares client.py with it.
 *
 * All fields have a fixed width and no structure has padding, so the layout is
 * the same for every architecture and for 32-bit callers.
 */
#ifndef DMABUF_REF_H
#define DMABUF_REF_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMABUF_REF_MAX_SIZE	(256ULL << 20)	/* bytes of one buffer */
#define DMABUF_REF_MAX_DELAY_US	(10ULL * 1000 * 1000)

/* dmabuf_ref_export.flags */
#define DMABUF_REF_READONLY	(1U << 0)	/* the fd is O_RDONLY */
#define DMABUF_REF_EAGER	(1U << 1)	/* allocate now, not late */
#define DMABUF_REF_CONTIGUOUS	(1U << 2)	/* one block in any case */
#define DMABUF_REF_DYNAMIC	(1U << 3)	/* the exporter can pin, and move */
#define DMABUF_REF_CARELESS	(1U << 4)	/* and its pins hold nothing: a bug */
#define DMABUF_REF_NO_P2P	(1U << 5)	/* refuses peer-to-peer at attach */
#define DMABUF_REF_INCOMPLETE	(1U << 8)	/* can pin, not unpin: a misuse */

/* dmabuf_ref_attach.flags */
#define DMABUF_REF_DYNAMIC_IMPORTER	(1U << 0)	/* can be told of a move */
#define DMABUF_REF_LAZY	(1U << 1)	/* and then unmaps late: see ATTACH */
#define DMABUF_REF_P2P	(1U << 2)	/* and asks for peer-to-peer */

/* dmabuf_ref_handle.flags, for DETACH */
#define DMABUF_REF_FORCE	(1U << 0)	/* unmap and vunmap first */

/*
 * Misuse: what no driver may do, for a tracer to find. No more than that, the
 * kernel survives each; those marked W make it say so, by a WARN. From bit 8
 * on, for random numbers not to hit them. For what each does see struct
 * dmabuf_ref_handle, and struct dmabuf_ref_export for DMABUF_REF_INCOMPLETE.
 */
#define DMABUF_REF_LEAVE	(1U << 8)	/* DETACH: leaves it mapped, pinned */
#define DMABUF_REF_FORGET	(1U << 9)	/* DETACH: does not, and puts; W */
#define DMABUF_REF_OTHERWISE	(1U << 10)	/* UNMAP: another direction */
#define DMABUF_REF_NOTHING	(1U << 11)	/* UNMAP: what is not mapped; W */
#define DMABUF_REF_STATIC	(1U << 12)	/* PIN, UNPIN: by a static one; W */

/*
 * The importer devices, all bound to the driver "dmabuf-ref-importer".
 * A scattered buffer needs one segment a page; a contiguous one needs one
 * segment for each max_seg_size bytes.
 */
enum dmabuf_ref_importer {
	DMABUF_REF_IMP64,	/* "dmabuf-ref-imp64": 64-bit mask, scatters */
	DMABUF_REF_IMP32,	/* "dmabuf-ref-imp32": 32-bit mask, scatters */
	DMABUF_REF_CONTIG,	/* "dmabuf-ref-contig": 1 segment of any size */
	DMABUF_REF_SEG,		/* "dmabuf-ref-seg": 4 segments of 64 KiB */
	DMABUF_REF_NR_IMPORTERS,
};

/* The operations that INJECT and GATE act upon: the exporter's own. */
enum dmabuf_ref_op {
	DMABUF_REF_OP_EXPORT,		/* before dma_buf_export() */
	DMABUF_REF_OP_ATTACH,
	DMABUF_REF_OP_DETACH,		/* cannot fail: delay and gate only */
	DMABUF_REF_OP_MAP,
	DMABUF_REF_OP_UNMAP,		/* cannot fail */
	DMABUF_REF_OP_MMAP,
	DMABUF_REF_OP_BEGIN_CPU,
	DMABUF_REF_OP_END_CPU,
	DMABUF_REF_OP_VMAP,		/* cannot fail: the core would WARN */
	DMABUF_REF_OP_VUNMAP,		/* cannot fail */
	DMABUF_REF_OP_RELEASE,		/* cannot fail */
	DMABUF_REF_OP_PIN,		/* not with EBUSY: the core would WARN */
	DMABUF_REF_OP_UNPIN,		/* cannot fail */
	DMABUF_REF_NR_OPS,
};

/* What a fence is for, as in enum dma_resv_usage: who waits for it. */
enum dmabuf_ref_usage {
	DMABUF_REF_USAGE_KERNEL,	/* all, static importers' MAP included */
	DMABUF_REF_USAGE_WRITE,		/* CPU access, MOVE */
	DMABUF_REF_USAGE_READ,		/* CPU access that writes, MOVE */
	DMABUF_REF_USAGE_BOOKKEEP,	/* MOVE */
	DMABUF_REF_NR_USAGES,
};

/**
 * struct dmabuf_ref_export - create a buffer; the ioctl returns its fd
 * @size:	in: bytes, 1 to DMABUF_REF_MAX_SIZE; out: rounded up to pages
 * @ino:	out: inode number, the identity of the buffer
 * @flags:	in: DMABUF_REF_READONLY, _EAGER, _CONTIGUOUS, _DYNAMIC, _NO_P2P, and
 *		with _DYNAMIC also _CARELESS; or _INCOMPLETE alone
 * @reserved:	in: 0
 *
 * With _INCOMPLETE the core refuses the export with a WARN, and the ioctl is
 * -EINVAL.
 *
 * A careless exporter grants every pin, and moves the buffer all the same: only
 * a vmap holds it where it is.
 */
struct dmabuf_ref_export {
	__u64 size;
	__u64 ino;
	__u32 flags;
	__u32 reserved;
};

/**
 * struct dmabuf_ref_attach - attach any dma-buf; the ioctl returns a handle
 * @fd:		in: a dma-buf of any exporter
 * @importer:	in: enum dmabuf_ref_importer
 * @flags:	in: 0, or DMABUF_REF_DYNAMIC_IMPORTER with or without _LAZY, _P2P
 * @reserved:	in: 0
 *
 * A dynamic exporter must not move a buffer that is mapped by a static
 * importer, so the core pins it for that one. Up to 6.15 it does so, and maps,
 * at the attach already, as it maps then if only the importer is dynamic;
 * MAP then finds that mapping. Where it has no CONFIG_DMABUF_MOVE_NOTIFY it
 * also pins for every map of a dynamic importer.
 *
 * Told of a move, a dynamic importer unmaps at once all that the handle has
 * mapped; a lazy one keeps it until the next MAP, which first unmaps it, or
 * until UNMAP or DETACH.
 *
 * One with _P2P could reach into the exporter's device, and says so; an
 * exporter with DMABUF_REF_NO_P2P takes that back.
 *
 * The handle belongs to the open file of /dev/dmabuf_ref: the last close of
 * that file unmaps, detaches and puts what is left.
 */
struct dmabuf_ref_attach {
	__s32 fd;
	__u32 importer;
	__u32 flags;
	__u32 reserved;
};

/**
 * struct dmabuf_ref_map - map an attachment
 * @handle:	in: from ATTACH
 * @direction:	in: enum dma_data_direction, 0 to 2 (DMA_NONE is refused)
 * @nents:	out: segments as the device sees them
 * @reserved:	in: 0
 * @bytes:	out: sum of the segments' lengths
 *
 * A handle may be mapped several times; UNMAP takes the newest mapping first.
 */
struct dmabuf_ref_map {
	__u32 handle;
	__u32 direction;
	__u32 nents;
	__u32 reserved;
	__u64 bytes;
};

/**
 * struct dmabuf_ref_handle - argument of what needs no more than a handle
 * @handle:	in: from ATTACH
 * @flags:	in: 0, DMABUF_REF_FORCE for DETACH, or one misuse
 *
 * VMAP begins CPU access first and VUNMAP ends it, both bidirectional. PIN and
 * UNPIN are for dynamic importers: -EINVAL for others.
 *
 * The misuses, each on buffers of EXPORT only (-EINVAL for others), since what
 * they leave is for their exporter to clear up:
 *
 * DETACH with DMABUF_REF_LEAVE detaches, and neither unmaps nor unpins before.
 * The exporter then ends the mappings; the pins stay, so that the buffer does
 * not move any more. Of a vmap nothing is left: the core would BUG.
 *
 * DETACH with DMABUF_REF_FORGET, by a static importer, puts the reference to
 * the buffer without detaching it. The release finds the attachment, and the
 * core's own structure of it is lost for good.
 *
 * UNMAP with DMABUF_REF_OTHERWISE unmaps the newest mapping with a direction
 * that it was not mapped with.
 *
 * UNMAP with DMABUF_REF_NOTHING, by a dynamic importer, unmaps a NULL table, as
 * after a map that failed: the core does nothing. Mappings that there are stay.
 *
 * PIN and UNPIN with DMABUF_REF_STATIC do so for static importers too.
 */
struct dmabuf_ref_handle {
	__u32 handle;
	__u32 flags;
};

/**
 * struct dmabuf_ref_inject - let the next calls of an operation be slow or fail
 * @op:		in: enum dmabuf_ref_op
 * @error:	in: errno as a positive number, 0 for a delay only
 * @count:	in: how many calls; 0 takes the injection back
 * @reserved:	in: 0
 * @delay_us:	in: sleep before the operation, up to DMABUF_REF_MAX_DELAY_US
 *
 * An injection, like a closed gate, ends with the open file that made it. (A
 * call that waits at a gate keeps the file that it was made through open.)
 */
struct dmabuf_ref_inject {
	__u32 op;
	__s32 error;
	__u32 count;
	__u32 reserved;
	__u64 delay_us;
};

/**
 * struct dmabuf_ref_gate - let every call of an operation wait, or go on
 * @op:		in: enum dmabuf_ref_op
 * @closed:	in: 1 closes the gate, 0 opens it
 *
 * Only SIGKILL ends the wait early (-EINTR). A waiting map holds the buffer's
 * reservation lock, as a slow exporter would: reading debugfs bufinfo waits for
 * it, and whoever creates or frees any dma-buf then waits for bufinfo. A
 * waiting mmap holds the mm's lock: other threads of its process stop at their
 * next page fault, so let another process open that gate.
 */
struct dmabuf_ref_gate {
	__u32 op;
	__u32 closed;
};

/**
 * struct dmabuf_ref_fence - add a fence to a buffer; the ioctl returns a number
 * @fd:		in: a dma-buf of any exporter
 * @usage:	in: enum dmabuf_ref_usage
 * @delay_us:	in: signal after that, up to DMABUF_REF_MAX_DELAY_US, in the
 *		granularity of jiffies; 0: not by itself
 *
 * SIGNAL, with a pointer to the number (an __s32), signals it at once, unless
 * that has happened, and frees the number. So does the last close of the file
 * of /dev/dmabuf_ref for what is left: none stays unsignalled. Who waits can
 * be interrupted. A wait in MAP, or in MOVE, holds the buffer's reservation
 * lock, with the effects that are described at struct dmabuf_ref_gate.
 *
 * A fence that still exists, signalled or not, keeps the module loaded: so do a
 * sync_file with it, and a buffer that has not got others since.
 */
struct dmabuf_ref_fence {
	__s32 fd;
	__u32 usage;
	__u64 delay_us;
};

/**
 * struct dmabuf_ref_counters - what the module did since it was loaded
 *
 * Never reset: take differences. Each one is exact under concurrency, but the
 * set is no snapshot while operations are running.
 *
 * Calls that the module made, counted where they return:
 * @export_ok:		dma_buf_export() that returned a buffer
 * @export_failed:	dma_buf_export() that returned an error
 * @export_refused:	valid EXPORT requests that ended before
 *			dma_buf_export(): injected error or no memory
 * @fd_ok:		dma_buf_fd() that returned an fd
 * @fd_failed:		dma_buf_fd() that returned an error
 * @get_ok:		dma_buf_get() that returned a buffer (ATTACH, LEAK_REF,
 *			MOVE, FENCE)
 * @get_failed:		dma_buf_get() that returned an error
 * @put:		dma_buf_put(), also where EXPORT or ATTACH undo
 * @attach_ok:		dma_buf_dynamic_attach() that returned an attachment
 *			(for static importers dma_buf_attach(), a jump to it)
 * @attach_failed:	dma_buf_dynamic_attach() that returned an error
 * @detach:		dma_buf_detach()
 * @map_ok:		dma_buf_map_attachment() that returned a table; static
 *			importers call it by dma_buf_map_attachment_unlocked()
 * @map_failed:		dma_buf_map_attachment() that returned an error
 * @unmap:		dma_buf_unmap_attachment(); static importers call it by
 *			dma_buf_unmap_attachment_unlocked()
 * @begin_ok:		dma_buf_begin_cpu_access(), around VMAP, that returned 0
 * @begin_failed:	dma_buf_begin_cpu_access() that returned an error
 * @end_ok:		dma_buf_end_cpu_access(), after VUNMAP, that returned 0
 * @end_failed:		dma_buf_end_cpu_access() that returned an error
 * @vmap_ok:		dma_buf_vmap_unlocked() that returned 0
 * @vmap_failed:	dma_buf_vmap_unlocked() that returned an error
 * @vunmap:		dma_buf_vunmap_unlocked()
 * @pin_ok:		dma_buf_pin() that returned 0
 * @pin_failed:		dma_buf_pin() that returned an error
 * @unpin:		dma_buf_unpin()
 * @move_notify:	dma_buf_invalidate_mappings(), up to 7.0
 *			dma_buf_move_notify()
 * @p2p_ok:		dma_buf_dynamic_attach() with DMABUF_REF_P2P that returned an
 *			attachment with peer2peer
 * @p2p_failed:		likewise, without: the exporter refused it
 * @fence_created:	dma_fence_init(), and dma_resv_add_fence() with it
 * @fence_signalled:	dma_fence_signal(), once for each fence; counted just
 *			before, so that whoever waited finds it counted
 *
 * Calls into importers of this module, from its own exporter or another:
 * @notified:		importer_ops->invalidate_mappings, up to 7.0
 *			importer_ops->move_notify
 *
 * Misuse by importers and exporters of this module. The calls among it count
 * above as well, but for @unmap_nothing:
 * @export_incomplete:	dma_buf_export() with DMABUF_REF_INCOMPLETE
 * @left_maps:		mappings that DMABUF_REF_LEAVE did not unmap
 * @left_pins:		pins that it did not undo
 * @forgotten:		attachments that DMABUF_REF_FORGET did not detach
 * @unmap_otherwise:	dma_buf_unmap_attachment() with another direction
 * @unmap_nothing:	dma_buf_unmap_attachment() of no table
 * @pin_static:		dma_buf_pin() by a static importer
 *
 * Calls into the exporter, whoever the importer is. Between a static importer
 * and a buffer exported without DMABUF_REF_DYNAMIC, each equals the calls of
 * the core function named; for other pairs see struct dmabuf_ref_attach.
 * @op_attach_ok:	ops->attach that succeeded: dma_buf_dynamic_attach()
 *			(dma_buf_attach() is a jump to it)
 * @op_attach_failed:	ops->attach that failed
 * @op_detach:		ops->detach: dma_buf_detach()
 * @op_map_ok:		ops->map_dma_buf that succeeded:
 *			dma_buf_map_attachment()
 * @op_map_failed:	ops->map_dma_buf that failed
 * @op_unmap:		ops->unmap_dma_buf: dma_buf_unmap_attachment()
 * @op_mmap_ok:		ops->mmap that succeeded: dma_buf_mmap_internal(), plus
 *			dma_buf_mmap() by other drivers
 * @op_mmap_failed:	ops->mmap that failed (a range beyond the buffer is
 *			refused by the core before)
 * @op_begin_ok:	ops->begin_cpu_access that succeeded:
 *			dma_buf_begin_cpu_access()
 * @op_begin_failed:	ops->begin_cpu_access that failed
 * @op_end_ok:		ops->end_cpu_access that succeeded: end_ok, plus
 *			DMA_BUF_IOCTL_SYNC with END, where the core function is
 *			inlined into dma_buf_ioctl()
 * @op_end_failed:	ops->end_cpu_access that failed
 * @op_vmap_ok:		ops->vmap that succeeded: only the first of nested
 *			dma_buf_vmap() reaches it
 * @op_vmap_failed:	ops->vmap that failed
 * @op_vunmap:		ops->vunmap: only the last of nested dma_buf_vunmap()
 * @op_release:		ops->release: dma_buf_release() of a whole buffer
 * @op_pin_ok:		ops->pin that succeeded: dma_buf_pin() by whomever, plus
 *			the core's own, which are in no function of their own
 * @op_pin_failed:	ops->pin that failed
 * @op_unpin:		ops->unpin: likewise
 * @op_left_maps:	mappings that ops->detach, or ops->release, found and ended
 *
 * What exists now:
 * @live_buffers:	buffers of this exporter
 * @live_attachments:	attachments to them, by any device
 * @live_maps:		mappings of them, by any device
 * @live_pages:		pages allocated for them
 * @live_handles:	attachments made by ATTACH, leaked ones included
 * @pending_fences:	made by FENCE and not signalled
 * @live_fences:	made by FENCE and not freed
 * @gate_waiters:	calls waiting at a closed gate
 * @leaked_attachments:	handles given to LEAK and not undone
 * @leaked_refs:	references made by LEAK_REF and not undone
 */
struct dmabuf_ref_counters {
	__u64 export_ok;
	__u64 export_failed;
	__u64 export_refused;
	__u64 fd_ok;
	__u64 fd_failed;
	__u64 get_ok;
	__u64 get_failed;
	__u64 put;
	__u64 attach_ok;
	__u64 attach_failed;
	__u64 detach;
	__u64 map_ok;
	__u64 map_failed;
	__u64 unmap;
	__u64 begin_ok;
	__u64 begin_failed;
	__u64 end_ok;
	__u64 end_failed;
	__u64 vmap_ok;
	__u64 vmap_failed;
	__u64 vunmap;
	__u64 pin_ok;
	__u64 pin_failed;
	__u64 unpin;
	__u64 move_notify;
	__u64 p2p_ok;
	__u64 p2p_failed;
	__u64 fence_created;
	__u64 fence_signalled;
	__u64 notified;
	__u64 export_incomplete;
	__u64 left_maps;
	__u64 left_pins;
	__u64 forgotten;
	__u64 unmap_otherwise;
	__u64 unmap_nothing;
	__u64 pin_static;
	__u64 op_attach_ok;
	__u64 op_attach_failed;
	__u64 op_detach;
	__u64 op_map_ok;
	__u64 op_map_failed;
	__u64 op_unmap;
	__u64 op_mmap_ok;
	__u64 op_mmap_failed;
	__u64 op_begin_ok;
	__u64 op_begin_failed;
	__u64 op_end_ok;
	__u64 op_end_failed;
	__u64 op_vmap_ok;
	__u64 op_vmap_failed;
	__u64 op_vunmap;
	__u64 op_release;
	__u64 op_pin_ok;
	__u64 op_pin_failed;
	__u64 op_unpin;
	__u64 op_left_maps;
	__u64 live_buffers;
	__u64 live_attachments;
	__u64 live_maps;
	__u64 live_pages;
	__u64 live_handles;
	__u64 pending_fences;
	__u64 live_fences;
	__u64 gate_waiters;
	__u64 leaked_attachments;
	__u64 leaked_refs;
};

#define DMABUF_REF_IOC_MAGIC	0xdb

/*
 * EXPORT returns an fd, ATTACH a handle, FENCE a number, UNDO_LEAKS how many;
 * others 0.
 */
#define DMABUF_REF_EXPORT \
	_IOWR(DMABUF_REF_IOC_MAGIC, 0x00, struct dmabuf_ref_export)
#define DMABUF_REF_ATTACH \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x01, struct dmabuf_ref_attach)
#define DMABUF_REF_MAP \
	_IOWR(DMABUF_REF_IOC_MAGIC, 0x02, struct dmabuf_ref_map)
#define DMABUF_REF_UNMAP \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x03, struct dmabuf_ref_handle)
#define DMABUF_REF_VMAP \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x04, struct dmabuf_ref_handle)
#define DMABUF_REF_VUNMAP \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x05, struct dmabuf_ref_handle)
#define DMABUF_REF_DETACH \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x06, struct dmabuf_ref_handle)
/* Takes the handle away from the file: it stays attached until UNDO_LEAKS. */
#define DMABUF_REF_LEAK \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x07, struct dmabuf_ref_handle)
/* The argument points to an fd; its buffer gets a reference nobody puts. */
#define DMABUF_REF_LEAK_REF \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x08, __s32)
#define DMABUF_REF_UNDO_LEAKS \
	_IO(DMABUF_REF_IOC_MAGIC, 0x09)
#define DMABUF_REF_INJECT \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x0a, struct dmabuf_ref_inject)
#define DMABUF_REF_GATE \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x0b, struct dmabuf_ref_gate)
#define DMABUF_REF_COUNTERS \
	_IOR(DMABUF_REF_IOC_MAGIC, 0x0c, struct dmabuf_ref_counters)
#define DMABUF_REF_PIN \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x0d, struct dmabuf_ref_handle)
#define DMABUF_REF_UNPIN \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x0e, struct dmabuf_ref_handle)
/*
 * The argument points to an fd of a buffer exported with DMABUF_REF_DYNAMIC
 * (others are -EINVAL): it tells the dynamic importers, waits for all fences,
 * and moves the content to new pages. -EBUSY while the buffer is pinned or
 * mapped by vmap, -ENODATA as long as it has no pages. The old pages stay, and
 * count, until all that were mapped by then are unmapped. User mappings go on
 * to see the buffer.
 */
#define DMABUF_REF_MOVE \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x0f, __s32)
#define DMABUF_REF_FENCE \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x10, struct dmabuf_ref_fence)
#define DMABUF_REF_SIGNAL \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x11, __s32)
/*
 * The argument points to the fd of any dma-buf; the ioctl returns the fd of a
 * new one that stands for it. Attaching, mapping, unmapping and detaching it do
 * the same to the buffer behind, within the call, and are counted for both;
 * nothing else can be done with it. -ELOOP after three wraps of each other.
 */
#define DMABUF_REF_WRAP \
	_IOW(DMABUF_REF_IOC_MAGIC, 0x12, __s32)

#endif /* DMABUF_REF_H */
