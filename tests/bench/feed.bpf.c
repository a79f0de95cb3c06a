// SPDX-License-Identifier: GPL-2.0
/*
 * Fills the ring without a kernel that uses dma-bufs: each run sends the next template, stamped
 * anew, and counts it where the ring has no room, by the accessors of the real programs. A socket
 * filter, as BPF_PROG_TEST_RUN repeats such a program in the kernel as often as it is asked to.
 */
#include "dialect.bpf.h"
#include "emit.bpf.h"

#define TEMPLATES (1 << 14)

MAP(array, u32, struct event, templates, TEMPLATES);
MAP(array, u32, u64, sent, 1);

SEC("socket") int feed(void *packet __attribute__((unused)))
{
	u32 zero = 0, index;
	struct event *template, event;
	u64 *count;

	count = bpf_map_lookup_elem(&sent, &zero);
	if (!count)
		return 0;
	index = (*count)++ % TEMPLATES;
	template = bpf_map_lookup_elem(&templates, &index);
	if (!template)
		return 0;
	event = *template;
	event.ts = bpf_ktime_get_ns();
	if (events_push(&event))
		lose(event.kind, LOSS_RING_FULL);
	return 0;
}
