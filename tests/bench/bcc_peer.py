# SPDX-License-Identifier: Apache-2.0
"""What a bcc user would write for the same probes: compiled here, on the target, then attached.

Writes CLOCK_REALTIME in ns to the file named by its argument once everything is attached.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bcc import BPF  # type: ignore[import-not-found]

MAXACTIVE = 1024
PROBES = {
    "dma_buf_export": True,
    "dma_buf_file_release": False,
    "fd_install": False,
    "dma_buf_dynamic_attach": True,
    "dma_buf_detach": False,
    "dma_buf_map_attachment": True,
    "dma_buf_unmap_attachment": False,
    "dma_buf_ioctl": True,
    "dma_buf_mmap_internal": True,
    "dma_buf_mmap": True,
}
"""Function, and whether its return is probed."""

TEXT = """
#include <uapi/linux/ptrace.h>
#include <linux/fs.h>
#include <linux/dma-buf.h>

struct record {
    u64 ts, dur, first, second, ret;
    u32 pid, tid, kind;
    char comm[16];
};

BPF_RINGBUF_OUTPUT(events, 2048);
BPF_HASH(began, u64, u64, 16384);
BPF_STACK_TRACE(stacks, 4096);

static int enter(struct pt_regs *ctx, u32 kind)
{
    u64 key = bpf_get_current_pid_tgid() << 4 | kind, now = bpf_ktime_get_ns();

    began.update(&key, &now);
    return 0;
}

static int leave(struct pt_regs *ctx, u32 kind, u64 first, u64 second)
{
    u64 thread = bpf_get_current_pid_tgid(), key = thread << 4 | kind, *start = began.lookup(&key);
    struct record *record = events.ringbuf_reserve(sizeof(*record));

    if (!record)
        return 0;
    record->ts = bpf_ktime_get_ns();
    record->dur = start ? record->ts - *start : 0;
    record->first = first;
    record->second = second;
    record->ret = PT_REGS_RC(ctx);
    record->pid = thread >> 32;
    record->tid = thread;
    record->kind = kind;
    bpf_get_current_comm(record->comm, sizeof(record->comm));
    events.ringbuf_submit(record, 0);
    return 0;
}
"""

FUNCTION = """
int enter_{name}(struct pt_regs *ctx) {{ return enter(ctx, {kind}); }}
int leave_{name}(struct pt_regs *ctx)
{{
    stacks.get_stackid(ctx, 0);
    return leave(ctx, {kind}, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
}}
"""


def main() -> None:
    """Compile, attach, open the ring, say when."""
    functions = (FUNCTION.format(name=name, kind=kind) for kind, name in enumerate(PROBES))
    bpf = BPF(text=TEXT + "".join(functions))
    for name, returns in PROBES.items():
        if returns:
            bpf.attach_kprobe(event=name, fn_name=f"enter_{name}")
            bpf.attach_kretprobe(event=name, fn_name=f"leave_{name}", maxactive=MAXACTIVE)
        else:
            bpf.attach_kprobe(event=name, fn_name=f"leave_{name}")
    bpf["events"].open_ring_buffer(lambda *_: None)
    Path(sys.argv[1]).write_text(str(time.time_ns()))


if __name__ == "__main__":
    main()
