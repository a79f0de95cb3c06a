// SPDX-License-Identifier: GPL-2.0
/* Where a call's time goes: waits for a buffer's reservation lock and for its fences. */

/* ---- which buffer a reservation object belongs to ------------------------------------------- */

INLINE bool waits_observed(void)
{
	return observed(EV_LOCK_WAIT) || observed(EV_FENCE_WAIT);
}

INLINE void learn_reservation(struct dma_buf *dmabuf, u64 inode)
{
	u64 resv = 0, *known;

	if (!waits_observed())
		return;
	READ(resv, dmabuf->resv);
	known = reservations_find(resv);
	if (!known || *known != inode)
		reservations_set(resv, inode);
}

/* A reservation object of the exporter's may outlive the buffer: its waits are then nobody's. */
INLINE void forget_buffer(struct dma_buf *dmabuf, u64 inode)
{
	u64 resv = 0, *known;

	if (!waits_observed())
		return;
	READ(resv, dmabuf->resv);
	known = reservations_find(resv);
	if (known && *known == inode)
		reservations_drop(resv);
}

/* ---- the lock --------------------------------------------------------------------------------- */

#define LCB_F_RT (1U << 3)	/* include/trace/events/lock.h */
#define LCB_F_MUTEX (1U << 5)

/*
 * contention_begin(void *lock, unsigned int flags) comes for every contended lock of the system, in
 * any context, but a mutex's (with PREEMPT_RT an rt_mutex's) by tasks only. For other locks a look
 * at the flags is all, for other mutexes one look-up.
 * A mutex begins several times in one wait, as it spins before it sleeps: the first counts.
 */
INLINE void on_lock_begin(u64 lock, u64 inode)
{
	struct call_key key = key_of(EV_LOCK_WAIT);
	struct call *call = inflight_find(&key);
	struct call begun = { .first = lock, .second = inode };

	if (call && call->first == lock && call->second == inode)
		return;
	begun.ts = bpf_ktime_get_ns();
	if (inflight_set(&key, &begun))
		lose(EV_LOCK_WAIT, LOSS_INFLIGHT_FULL);
}

TRACEPOINT(lock_begin)
{
	u64 *inode;

	if (!(TP_ARG(ctx, 1) & (LCB_F_MUTEX | LCB_F_RT)))
		return 0;
	inode = reservations_find(TP_ARG(ctx, 0));
	if (inode)
		on_lock_begin(TP_ARG(ctx, 0), *inode);
	return 0;
}

/* contention_end(void *lock, int ret). Without its begin: the buffer was not known then. */
INLINE void on_lock_end(void *ctx, u64 lock, s32 ret)
{
	struct event event = { .kind = EV_LOCK_WAIT, .object = lock, .ret = ret };
	struct call_key key = key_of(EV_LOCK_WAIT);
	struct call *call = inflight_find(&key);
	u64 begin;

	if (!call || call->first != lock)
		return;
	event.buffer = call->second;
	begin = call->ts;
	inflight_drop(&key);
	emit(ctx, &event, begin);
}

TRACEPOINT(lock_end)
{
	if (reservations_find(TP_ARG(ctx, 0)))
		on_lock_end(ctx, TP_ARG(ctx, 0), TP_ARG(ctx, 1));
	return 0;
}

/* ---- fences ----------------------------------------------------------------------------------- */

/* @call: inode, context, sequence number; its time is that of the wait for this fence, 0: none. */
INLINE void on_fence_waited(void *ctx, struct call *call, s32 ret, u32 detail)
{
	struct event event = { .kind = EV_FENCE_WAIT, .ret = ret, .detail = detail };

	event.buffer = call->first;
	event.value = call->second;
	event.aux = call->third;
	emit(ctx, &event, call->ts);
}

/*
 * long dma_resv_wait_timeout(struct dma_resv *, enum dma_resv_usage, bool, unsigned long timeout)
 * waits for one fence after the other; without a timeout it only looks.
 */
PROBE(resv_wait_entry)
{
	struct call_key key = key_of(EV_FENCE_WAIT);
	u64 *inode = reservations_find(ARG1(ctx));
	struct call call = {};

	if (!inode || !ARG4(ctx))
		return 0;
	call.first = *inode;
	if (inflight_set(&key, &call))
		lose(EV_FENCE_WAIT, LOSS_INFLIGHT_FULL);
	return 0;
}

/* dma_fence_wait_start(struct dma_fence *): the fence before this one has signalled. */
TRACEPOINT(fence_wait_start)
{
	struct call_key key = key_of(EV_FENCE_WAIT);
	struct dma_fence *fence = (struct dma_fence *)TP_ARG(ctx, 0);
	struct call *call = inflight_find(&key);
	u64 number = 0;

	if (!call)
		return 0;
	if (call->ts)
		on_fence_waited(ctx, call, 0, 0);
	READ(number, fence->context);
	call->second = number;
	READ(number, fence->seqno);
	call->third = number;
	call->ts = bpf_ktime_get_ns();
	return 0;
}

/* 0: the time was over; negative: an error; both are about the fence that was waited for last. */
PROBE(resv_wait_return)
{
	struct call_key key = key_of(EV_FENCE_WAIT);
	struct call *kept = inflight_find(&key);
	s64 left = RETURNED(ctx);
	struct call call;

	if (!kept)
		return 0;
	call = *kept;
	inflight_drop(&key);
	if (call.ts)
		on_fence_waited(ctx, &call, left < 0 ? left : 0, left ? 0 : FENCE_TIMED_OUT);
	return 0;
}
