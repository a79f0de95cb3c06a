#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# virtme-ng.sh KERNEL COMMAND...: boot a kernel, run a suite in it under the gate.
#
# KERNEL is an image, a kernel tree that was built, or a release, as `vng --run` takes them. The
# guest sees this machine's files; what it writes into the folder `leaks` stays: leaks.xml (JUnit)
# and leaks.dbt (the recording). The exit status is that of `dmabuf-trace check`.
#
# CHECK_OPTIONS, VNG_OPTIONS: more options of `dmabuf-trace check` and of vng.
# DMABUF_TRACE: the command, where it is not in PATH.

if [ $# -lt 2 ]; then
	echo "usage: $0 KERNEL COMMAND..." >&2
	exit 2
fi
kernel=$1
shift
mkdir -p leaks
# shellcheck disable=SC2086 # options are words
exec vng --run "$kernel" --user root --rwdir "$PWD/leaks=$PWD/leaks" $VNG_OPTIONS -- \
	${DMABUF_TRACE:-$(command -v dmabuf-trace)} check --skip-untraceable $CHECK_OPTIONS \
	--to text --to junit="$PWD/leaks/leaks.xml" -o "$PWD/leaks/leaks.dbt" --force -- "$@"
