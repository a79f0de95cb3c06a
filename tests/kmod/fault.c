// SPDX-License-Identifier: GPL-2.0
/*
 * Gates, delays and errors on request: each operation of the exporter passes
 * through ref_fault() before it does anything.
 */
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/hrtimer.h>
#include <linux/ktime.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "internal.h"

/* One operation's request; an owner is only ever compared, never followed. */
struct ref_fault {
	spinlock_t lock;	/* all below; closed and count are peeked at */
	wait_queue_head_t gate;
	const struct ref_file *gate_owner;
	bool closed;
	const struct ref_file *inject_owner;
	u32 count;
	int error;
	u64 delay_us;
};

static struct ref_fault faults[DMABUF_REF_NR_OPS];

void ref_faults_init(void)
{
	int op;

	for (op = 0; op < DMABUF_REF_NR_OPS; op++) {
		spin_lock_init(&faults[op].lock);
		init_waitqueue_head(&faults[op].gate);
	}
}

static bool op_can_fail(u32 op)
{
	switch (op) {
	case DMABUF_REF_OP_DETACH:
	case DMABUF_REF_OP_UNMAP:
	case DMABUF_REF_OP_VMAP:
	case DMABUF_REF_OP_VUNMAP:
	case DMABUF_REF_OP_RELEASE:
	case DMABUF_REF_OP_UNPIN:
		return false;
	default:
		return true;
	}
}

static int wait_at_gate(struct ref_fault *fault)
{
	int ret;

	if (!READ_ONCE(fault->closed))
		return 0;

	ref_inc(gate_waiters);
	ret = wait_event_killable(fault->gate, !READ_ONCE(fault->closed));
	ref_dec(gate_waiters);

	return ret ? -EINTR : 0;
}

/* Not fsleep(): a test that kills its victim must not wait for the delay. */
static void sleep_us(u64 delay_us)
{
	ktime_t delay = ns_to_ktime(delay_us * NSEC_PER_USEC);

	__set_current_state(TASK_KILLABLE);
	schedule_hrtimeout(&delay, HRTIMER_MODE_REL);
}

/**
 * ref_fault - do what INJECT and GATE asked for
 * @op: the operation about to run; process context, may hold a dma_resv lock
 *
 * Return: 0, or the error that the operation shall return; always 0 for one
 * that cannot fail.
 */
int ref_fault(enum dmabuf_ref_op op)
{
	struct ref_fault *fault = &faults[op];
	u64 delay_us = 0;
	int error = 0;
	int ret;

	ret = wait_at_gate(fault);
	if (ret && op_can_fail(op))
		return ret;

	if (!READ_ONCE(fault->count))
		return 0;

	spin_lock(&fault->lock);
	if (fault->count) {
		fault->count--;
		delay_us = fault->delay_us;
		error = fault->error;
	}
	spin_unlock(&fault->lock);

	if (delay_us)
		sleep_us(delay_us);
	return -error;
}

int ref_inject(const struct ref_file *owner,
	       const struct dmabuf_ref_inject *req)
{
	struct ref_fault *fault;

	/* Above the last errno are codes that must not reach user space. */
	if (req->op >= DMABUF_REF_NR_OPS || req->reserved ||
	    req->error < 0 || req->error > EHWPOISON ||
	    req->delay_us > DMABUF_REF_MAX_DELAY_US)
		return -EINVAL;
	if (req->error && !op_can_fail(req->op))
		return -EINVAL;
	/* A pin for a map that says so makes the core WARN. */
	if (req->op == DMABUF_REF_OP_PIN && req->error == EBUSY)
		return -EINVAL;

	fault = &faults[req->op];
	spin_lock(&fault->lock);
	fault->inject_owner = owner;
	fault->error = req->error;
	fault->delay_us = req->delay_us;
	WRITE_ONCE(fault->count, req->count);
	spin_unlock(&fault->lock);
	return 0;
}

int ref_gate(const struct ref_file *owner, const struct dmabuf_ref_gate *req)
{
	struct ref_fault *fault;

	if (req->op >= DMABUF_REF_NR_OPS || req->closed > 1)
		return -EINVAL;

	fault = &faults[req->op];
	spin_lock(&fault->lock);
	fault->gate_owner = owner;
	WRITE_ONCE(fault->closed, req->closed);
	spin_unlock(&fault->lock);

	if (!req->closed)
		wake_up_all(&fault->gate);
	return 0;
}

/* The owner goes away: what it asked for must not outlive it. */
void ref_faults_end(const struct ref_file *owner)
{
	int op;

	for (op = 0; op < DMABUF_REF_NR_OPS; op++) {
		struct ref_fault *fault = &faults[op];
		bool opened = false;

		spin_lock(&fault->lock);
		if (fault->inject_owner == owner)
			WRITE_ONCE(fault->count, 0);
		if (fault->gate_owner == owner && fault->closed) {
			WRITE_ONCE(fault->closed, false);
			opened = true;
		}
		spin_unlock(&fault->lock);

		if (opened)
			wake_up_all(&fault->gate);
	}
}
