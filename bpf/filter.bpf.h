/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which events pass. A filter watches buffers, so that lives stay whole: a buffer that matches is
 * watched from the first event on that a matching task makes on it, and then every event on it
 * passes, whoever makes it, until its release.
 */
#ifndef DMABUF_TRACE_FILTER_H
#define DMABUF_TRACE_FILTER_H

#define TASK_FILTERS (FILTER_PIDS | FILTER_COMM)
#define BUFFER_FILTERS (FILTER_EXPORTER | FILTER_SIZE)

INLINE bool task_matches(struct config *config)
{
	const u64 *wanted = (const u64 *)config->comm;
	struct comm now = {};

	if (config->filters & FILTER_PIDS && !pids_find(bpf_get_current_pid_tgid() >> 32))
		return 0;
	if (!(config->filters & FILTER_COMM))
		return 1;
	comm_now(&now);
	return now.words[0] == wanted[0] && now.words[1] == wanted[1];
}

/*
 * A buffer that finds no room to be watched is not begun with: of a life with only its first
 * event, or only some of them, a report would make a leak.
 */
INLINE bool has_room(struct event *event, long error)
{
	if (error)
		lose(event->kind, LOSS_UNWATCHED);
	return !error;
}

/* An export tells what its buffer is, and is the only event that does. */
INLINE bool export_matches(struct config *config, struct event *event)
{
	if (config->filters & FILTER_EXPORTER && event->aux != config->exporter)
		return 0;
	if (config->filters & FILTER_SIZE &&
	    (event->value < config->min_size || event->value > config->max_size))
		return 0;
	return !event->buffer || has_room(event, matching_set(event->buffer));
}

INLINE bool buffer_matches(struct config *config, struct event *event)
{
	if (!(config->filters & BUFFER_FILTERS))
		return 1;
	if (event->kind == EV_EXPORT)
		return export_matches(config, event);
	/* a call that failed before there was a buffer: the task alone decides */
	return !event->buffer || matching_find(event->buffer);
}

INLINE bool passes(struct config *config, struct event *event)
{
	if (event->kind == EV_FORK)
		return 1;	/* it copies fds of any buffers, watched ones may be among them */
	if (config->filters & TASK_FILTERS && event->buffer && watched_find(event->buffer))
		return 1;
	if (!buffer_matches(config, event))
		return 0;
	if (!(config->filters & TASK_FILTERS))
		return 1;
	if (!task_matches(config))
		return 0;
	return !event->buffer || has_room(event, watched_set(event->buffer));
}

/* Whether the filters let @event pass; keeps the tables of what they watch. */
INLINE bool is_wanted(struct config *config, struct event *event)
{
	bool wanted;

	if (!config || !config->filters)
		return 1;
	wanted = passes(config, event);
	if (event->kind == EV_RELEASE) {
		watched_drop(event->buffer);
		matching_drop(event->buffer);
	}
	return wanted;
}

#endif
