// SPDX-License-Identifier: GPL-2.0
/* One object of all areas: they share the maps. */

#include "dialect.bpf.h"
#include "emit.bpf.h"

#include "wait.bpf.c"
#include "operation.bpf.c"
#include "buffer.bpf.c"
#include "holder.bpf.c"
#include "attachment.bpf.c"
#include "ioctl.bpf.c"
#include "kernel_access.bpf.c"
#include "process.bpf.c"
