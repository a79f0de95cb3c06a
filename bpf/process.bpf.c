// SPDX-License-Identifier: GPL-2.0
/* Where processes are followed by their pid: their children are, from before they run. */

/* sched_process_fork(struct task_struct *parent, struct task_struct *child), also a new thread's */
INLINE void follow_child(void *ctx, struct task_struct *child)
{
	u32 parent = bpf_get_current_pid_tgid() >> 32;
	s32 process = 0;

	(void)ctx;
	if (!pids_find(parent))
		return;
	READ(process, child->tgid);
	if (process != (s32)parent && pids_set(process))
		lose(EV_EXPORT, LOSS_UNWATCHED);	/* what the child makes is missing */
}

TRACEPOINT(process_fork)
{
	follow_child(ctx, (struct task_struct *)TP_ARG(ctx, 1));
	return 0;
}

/* sched_process_exit(struct task_struct *task, ...): once for every thread */
INLINE void on_exit(void *ctx, struct task_struct *task)
{
	struct signal_struct *signal = 0;
	int live = 0;

	(void)ctx;
	READ(signal, task->signal);
	READ(live, signal->live.counter);
	if (!live)	/* the last thread: the number may be given out again */
		pids_drop(bpf_get_current_pid_tgid() >> 32);
}

TRACEPOINT(process_exit)
{
	on_exit(ctx, (struct task_struct *)TP_ARG(ctx, 0));
	return 0;
}
