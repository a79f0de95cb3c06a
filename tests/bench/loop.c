// SPDX-License-Identifier: Apache-2.0
/*
 * loop NAME COUNT: do what the loop NAME does COUNT times, after a few rounds to warm up, and print
 * the nanoseconds of processor time that this process used for it. Anything that fails ends it.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "dmabuf_ref.h"

#define WARM_UP 20
#define BUFFER_BYTES 4096

static int device = -1;
static int shared = -1;	/* the one buffer of the loops that need no new ones */

static int call(int fd, unsigned long request, void *argument)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		err(1, "ioctl 0x%lx", request);
	return result;
}

static int export(void)
{
	struct dmabuf_ref_export made = { .size = BUFFER_BYTES };

	return call(device, DMABUF_REF_EXPORT, &made);
}

static void give_back(int fd)
{
	if (close(fd))
		err(1, "close");
}

static void use(int fd)
{
	struct dmabuf_ref_attach attached = { .fd = fd, .importer = DMABUF_REF_IMP64 };
	struct dmabuf_ref_map mapped = {};
	struct dmabuf_ref_handle handle = {};

	mapped.handle = handle.handle = call(device, DMABUF_REF_ATTACH, &attached);
	call(device, DMABUF_REF_MAP, &mapped);
	call(device, DMABUF_REF_UNMAP, &handle);
	call(device, DMABUF_REF_DETACH, &handle);
}

static void bracket(int fd)
{
	struct dma_buf_sync flags = { .flags = DMA_BUF_SYNC_RW | DMA_BUF_SYNC_START };

	call(fd, DMA_BUF_IOCTL_SYNC, &flags);
	flags.flags = DMA_BUF_SYNC_RW | DMA_BUF_SYNC_END;
	call(fd, DMA_BUF_IOCTL_SYNC, &flags);
}

static void do_cycle(void)
{
	int fd = export();

	use(fd);
	bracket(fd);
	give_back(fd);
}

static void do_alloc(void)
{
	give_back(export());
}

static void do_import(void)
{
	use(shared);
}

static void do_sync(void)
{
	bracket(shared);
}

static void do_files(void)
{
	int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		err(1, "open");
	give_back(fd);
}

static const struct {
	const char *name;
	void (*once)(void);
	int buffers;	/* whether it needs the exporter */
} loops[] = {
	{ "cycle", do_cycle, 1 },	/* a buffer from its export to its release */
	{ "alloc", do_alloc, 1 },	/* export, close */
	{ "import", do_import, 1 },	/* attach, map, unmap, detach */
	{ "sync", do_sync, 1 },		/* begin and end of CPU access */
	{ "files", do_files, 0 },	/* open and close of an ordinary file */
};

static uint64_t used(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now))
		err(1, "clock_gettime");
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

int main(int argc, char **argv)
{
	void (*once)(void) = NULL;
	unsigned long i, count;
	uint64_t began;
	size_t each;

	if (argc != 3)
		errx(2, "usage: loop NAME COUNT");
	count = strtoul(argv[2], NULL, 10);
	for (each = 0; each < sizeof(loops) / sizeof(*loops); each++) {
		if (strcmp(argv[1], loops[each].name))
			continue;
		once = loops[each].once;
		if (loops[each].buffers) {
			device = open("/dev/dmabuf_ref", O_RDWR | O_CLOEXEC);
			if (device < 0)
				err(1, "/dev/dmabuf_ref");
			shared = export();
		}
	}
	if (!once)
		errx(2, "no loop %s", argv[1]);
	for (i = 0; i < WARM_UP; i++)
		once();
	began = used();
	for (i = 0; i < count; i++)
		once();
	printf("%llu\n", (unsigned long long)(used() - began));
	return 0;
}
