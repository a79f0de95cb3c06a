// SPDX-License-Identifier: GPL-2.0
/*
 * Snapshots: iterators over live buffers, and over the fds, VMAs and queues of sockets that hold them.
 * Each writes one fixed-size record per hit. An object of their own, so that a kernel which lacks one of them loses
 * nothing else. Reading takes a reference of the look's own to the file it stands on: not counted.
 */
#define WITHOUT_MAPS
#include "dialect.bpf.h"

/* include/uapi/linux/magic.h */
#define DMA_BUF_MAGIC 0x444d4142	/* "DMAB" */
#define SOCKFS_MAGIC 0x534f434b
#define ANON_INODE_FS_MAGIC 0x09041934

#define AF_UNIX 1
#define TCP_LISTEN 10	/* of all kinds of sockets: include/net/tcp_states.h */
#define MAX_QUEUED 1024	/* messages in a queue, connections in a backlog */
#define MAX_FDS 253	/* in a message: SCM_MAX_FD */
#define MAX_RECORDS 128	/* of a socket: what the kernel has room for at once */

static long (*const bpf_seq_write)(void *seq, const void *data, u32 size) = (void *)127;

/* ---- contexts: a fixed layout, pointers padded to 64 bits (kernel: __bpf_md_ptr) ------------ */

#define POINTER(type_name, name) type_name *name __attribute__((aligned(8)))

struct bpf_iter_meta {
	POINTER(void, seq);
};

struct dmabuf_context {
	POINTER(struct bpf_iter_meta, meta);
	POINTER(struct dma_buf, dmabuf);
};

struct task_file_context {
	POINTER(struct bpf_iter_meta, meta);
	POINTER(struct task_struct, task);
	u32 fd __attribute__((aligned(8)));
	POINTER(struct file, file);
};

struct task_vma_context {
	POINTER(struct bpf_iter_meta, meta);
	POINTER(struct task_struct, task);
	POINTER(struct vm_area_struct, vma);
};

/* ---- kernel structs that nothing else needs ------------------------------------------------ */

struct qstr {
	const char *name;
} KERNEL_STRUCT;

struct dentry {
	struct qstr d_name;
} KERNEL_STRUCT;

struct path {
	struct dentry *dentry;
} KERNEL_STRUCT;

struct file___named {
	struct path f_path;
} KERNEL_STRUCT;

struct sock_common {
	u16 skc_family;
	u8 skc_state;
} KERNEL_STRUCT;

struct sk_buff_head {
	struct sk_buff *next;
} KERNEL_STRUCT;

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	struct pid *sk_peer_pid;
} KERNEL_STRUCT;

struct socket {
	struct sock *sk;
} KERNEL_STRUCT;

struct sk_buff {
	struct sk_buff *next;
	struct sock *sk;
	char cb[48];
} KERNEL_STRUCT;

struct scm_fp_list {
	s16 count;
	struct file *fp[1];
} KERNEL_STRUCT;

struct unix_skb_parms {
	struct pid *pid;
	struct scm_fp_list *fp;
} KERNEL_STRUCT;

struct upid {
	int nr;
} KERNEL_STRUCT;

struct hlist_node {
	struct hlist_node *next, **pprev;
};

struct hlist_head {
	struct hlist_node *first;
};

#define PIDTYPE_TGID 1

struct pid {
	struct hlist_head tasks[2];
	struct upid numbers[1];
} KERNEL_STRUCT;

struct task_struct___links {
	struct hlist_node pid_links[2];
} KERNEL_STRUCT;

/* ---- what is read --------------------------------------------------------------------------- */

INLINE u64 references(struct file *file)
{
	if (HAS(file->f_ref))
		return file->f_ref.refcnt.counter + 1;
	return file->f_count.counter;
}

INLINE bool is_dmabuf(struct file *file)
{
	return file->f_inode->i_sb->s_magic == DMA_BUF_MAGIC;
}

/* The name may change meanwhile, its lock can't be taken here: at worst it reads as mixed. */
INLINE void describe(struct dma_buf *dmabuf, u64 *size, char *exporter, char *name)
{
	const char *text = 0;

	READ(*size, dmabuf->size);
	READ(text, dmabuf->exp_name);
	if (text)
		bpf_probe_read_kernel_str(exporter, sizeof(((struct found *)0)->exporter), text);
	READ(text, dmabuf->name);
	if (text)
		bpf_probe_read_kernel_str(name, sizeof(((struct found *)0)->name), text);
}

INLINE void hold(struct held *held, struct task_struct *task, struct file *file)
{
	held->buffer = file->f_inode->i_ino;
	held->references = references(file);
	held->pid = task->tgid;
	/* a thread with files of its own speaks for its process */
	bpf_probe_read_kernel_str(held->comm, sizeof(held->comm), task->group_leader->comm);
	describe(file->private_data, &held->size, held->exporter, held->name);
}

/* ---- queues: they may change while they are walked, so all is read as if it were gone -------- */

struct walk {
	void *seq;
	struct sock *sk;	/* whose queue it is */
	void *message, *messages_end;
	void *connection, *connections_end;
	struct file **files;
	u32 told;	/* records */
	struct queued queued;
};

INLINE bool reads_as_dmabuf(struct file *file)
{
	struct inode *inode = 0;
	struct super_block *sb = 0;
	unsigned long magic = 0;

	READ(inode, file->f_inode);
	READ(sb, inode->i_sb);
	READ(magic, sb->s_magic);
	return magic == DMA_BUF_MAGIC;
}

/* Process and its name, as long as it lives. */
INLINE void name_sender(struct queued *queued, struct pid *pid)
{
	struct hlist_node *node = 0;
	struct task_struct *task;
	int number = 0;

	READ(number, pid->numbers[0].nr);
	queued->sender = number;
	READ(node, pid->tasks[PIDTYPE_TGID].first);
	if (!node)
		return;
	task = (void *)node - __builtin_preserve_field_info(
		((struct task_struct___links *)0)->pid_links[PIDTYPE_TGID], FIELD_BYTE_OFFSET);
	bpf_probe_read_kernel_str(queued->sender_comm, sizeof(queued->sender_comm),
				  __builtin_preserve_access_index(&task->comm));
}

static long each_file(u32 index, struct walk *walk)
{
	struct queued *queued = &walk->queued;
	struct dma_buf *dmabuf = 0;
	struct inode *inode = 0;
	struct file *file = 0;
	unsigned long number = 0;
	u64 references = 0, size = 0;

	read_kernel(&file, sizeof(file), walk->files + index);
	if (!file || !reads_as_dmabuf(file))
		return 0;
	if (walk->told >= MAX_RECORDS)
		return 1;
	walk->told++;
	READ(inode, file->f_inode);
	READ(number, inode->i_ino);
	queued->buffer = number;
	if (HAS(file->f_ref)) {
		READ(references, file->f_ref.refcnt.counter);
		references += 1;
	} else {
		READ(references, file->f_count.counter);
	}
	queued->references = references;
	__builtin_memset(queued->exporter, 0, sizeof(queued->exporter));
	__builtin_memset(queued->name, 0, sizeof(queued->name));
	READ(dmabuf, file->private_data);
	describe(dmabuf, &size, queued->exporter, queued->name);
	queued->size = size;
	bpf_seq_write(walk->seq, queued, sizeof(*queued));
	return 0;
}

static long each_message(u32 index, struct walk *walk)
{
	struct sk_buff *message = walk->message;
	struct sock *sk = walk->sk;
	struct unix_skb_parms *control;
	struct scm_fp_list *list = 0;
	struct pid *pid = 0;
	void *next = 0;
	s16 count = 0;

	(void)index;
	if (!message || message == walk->messages_end)
		return 1;
	READ(next, message->next);
	walk->message = next;
	control = (void *)__builtin_preserve_access_index(&message->cb);
	READ(list, control->fp);
	if (!list)
		return 0;
	READ(pid, control->pid);
	if (!pid)
		READ(pid, sk->sk_peer_pid);
	walk->queued.sender = 0;
	__builtin_memset(walk->queued.sender_comm, 0, sizeof(walk->queued.sender_comm));
	if (pid)
		name_sender(&walk->queued, pid);
	READ(count, list->count);
	walk->files = (void *)__builtin_preserve_access_index(&list->fp);
	if (count > 0 && count <= MAX_FDS)
		bpf_loop(count, each_file, walk, 0);
	return walk->told >= MAX_RECORDS;
}

INLINE void walk_messages(struct walk *walk, struct sock *sk)
{
	void *first = 0;

	walk->sk = sk;
	walk->messages_end = __builtin_preserve_access_index(&sk->sk_receive_queue);
	READ(first, sk->sk_receive_queue.next);
	walk->message = first;
	bpf_loop(MAX_QUEUED, each_message, walk, 0);
}

/* What a listening socket has queued are connections, to which peers may have sent already. */
static long each_connection(u32 index, struct walk *walk)
{
	struct sk_buff *connection = walk->connection;
	struct sock *sk = 0;
	void *next = 0;

	(void)index;
	if (!connection || connection == walk->connections_end)
		return 1;
	READ(next, connection->next);
	walk->connection = next;
	READ(sk, connection->sk);
	if (sk)
		walk_messages(walk, sk);
	return walk->told >= MAX_RECORDS;
}

/* ---- programs ------------------------------------------------------------------------------- */

/* The context's pointers are NULL on the last call, which comes after the last object. */

SEC("iter/dmabuf") int live_buffers(struct dmabuf_context *ctx)
{
	struct dma_buf *dmabuf = ctx->dmabuf;
	struct found found = {};

	if (!dmabuf)
		return 0;
	found.buffer = dmabuf->file->f_inode->i_ino;
	found.references = references(dmabuf->file) - 1;
	describe(dmabuf, &found.size, found.exporter, found.name);
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
	return 0;
}

SEC("iter/task_file") int held_fds(struct task_file_context *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct held held = {};

	if (!task || !file || !is_dmabuf(file))
		return 0;
	held.fd = ctx->fd;
	held.table = (u64)task->files;
	hold(&held, task, file);
	held.references -= 1;
	bpf_seq_write(ctx->meta->seq, &held, sizeof(held));
	return 0;
}

SEC("iter/task_vma") int held_vmas(struct task_vma_context *ctx)
{
	struct task_struct *task = ctx->task;
	struct vm_area_struct *vma = ctx->vma;
	struct held held = {};
	struct file *file;

	if (!task || !vma)
		return 0;
	file = vma->vm_file;
	if (!file || !is_dmabuf(file))
		return 0;
	held.fd = -1;
	held.start = vma->vm_start;
	held.length = vma->vm_end - vma->vm_start;
	hold(&held, task, file);
	bpf_seq_write(ctx->meta->seq, &held, sizeof(held));
	return 0;
}

/* By the processes that have the socket, as no list of sockets goes across network namespaces. */
SEC("iter/task_file") int queued_fds(struct task_file_context *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct walk walk = {};
	struct socket *socket;
	struct sock *sk = 0;
	void *first = 0;
	u16 family = 0;
	u8 state = 0;

	if (!task || !file || file->f_inode->i_sb->s_magic != SOCKFS_MAGIC)
		return 0;
	socket = file->private_data;
	READ(sk, socket->sk);
	READ(family, sk->__sk_common.skc_family);
	if (!sk || family != AF_UNIX)
		return 0;
	walk.seq = ctx->meta->seq;
	/* 0 too, but not to the verifier, which would follow each value that it counts through */
	bpf_probe_read_kernel(&walk.told, sizeof(walk.told), 0);
	walk.queued.socket = file->f_inode->i_ino;
	walk.queued.pid = task->tgid;
	bpf_probe_read_kernel_str(walk.queued.comm, sizeof(walk.queued.comm),
				  task->group_leader->comm);
	READ(state, sk->__sk_common.skc_state);
	if (state == TCP_LISTEN) {
		walk.connections_end = __builtin_preserve_access_index(&sk->sk_receive_queue);
		READ(first, sk->sk_receive_queue.next);
		walk.connection = first;
		bpf_loop(MAX_QUEUED, each_connection, &walk, 0);
	} else {
		walk_messages(&walk, sk);
	}
	if (walk.told >= MAX_RECORDS) {	/* there may be more */
		walk.queued.buffer = 0;
		bpf_seq_write(walk.seq, &walk.queued, sizeof(walk.queued));
	}
	return 0;
}

/* What the kernel calls such a file is in no header; since 4.7, and /proc shows it. */
INLINE bool is_sync_file(struct file *file)
{
	union {
		char text[16];
		u64 words[2];
	} name = {}, wanted = {"sync_file"};

	if (file->f_inode->i_sb->s_magic != ANON_INODE_FS_MAGIC)
		return 0;
	bpf_probe_read_kernel_str(name.text, sizeof(name.text),
				  ((struct file___named *)file)->f_path.dentry->d_name.name);
	return name.words[0] == wanted.words[0] && name.words[1] == wanted.words[1];
}

SEC("iter/task_file") int sync_file_fds(struct task_file_context *ctx)
{
	struct task_struct *task = ctx->task;
	struct sync_file_fd found = {};

	if (!task || !ctx->file || !is_sync_file(ctx->file))
		return 0;
	found.pid = task->tgid;
	found.fd = ctx->fd;
	bpf_probe_read_kernel_str(found.comm, sizeof(found.comm), task->group_leader->comm);
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
	return 0;
}
