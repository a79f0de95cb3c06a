#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# kselftest.sh TEST [ARGUMENTS...]: run a test of any kind, and see what it leaves behind.
#
# Prints KTAP with two results: the test's own, and whether it left dma-bufs or broke a rule of the
# contract. Exit status as kselftest has it: 0 pass, 1 fail, 4 skip. Where the kernel can't be
# traced the test runs all the same, and the second result is a skip. Needs root.
#
# CHECK_OPTIONS: more options of `dmabuf-trace check`, such as --policy FILE.
# DMABUF_TRACE: the command, where it is not in PATH.

PASS=0
FAIL=1
SKIP=4
CLEAN=0
FINDINGS=1
INCONCLUSIVE=3
UNTRACEABLE=77

trace=${DMABUF_TRACE:-dmabuf-trace}

if [ $# -eq 0 ]; then
	echo "usage: $0 TEST [ARGUMENTS...]" >&2
	exit $FAIL
fi
work=$(mktemp -d) || exit $FAIL
trap 'rm -rf "$work"' EXIT
trap 'exit $FAIL' INT TERM
name=$(basename "$1" | tr -c 'A-Za-z0-9._\n-' _)

# What the test comes to by itself is not check's to tell.
own='"$@"; echo $? >"$OWN_STATUS"'
export OWN_STATUS="$work/test"

echo "KTAP version 1"
echo "1..2"
# To a file: a process that stays behind would keep a pipe open. All that the test says is a
# diagnostic, as kselftest's runner makes it.
# shellcheck disable=SC2086 # options are words
"$trace" check --skip-untraceable --to ktap="$work/ktap" $CHECK_OPTIONS -- \
	sh -c "$own" sh "$@" >"$work/output" 2>&1 </dev/null
verdict=$?
if [ $verdict -eq $UNTRACEABLE ]; then
	sh -c "$own" sh "$@" >>"$work/output" 2>&1 </dev/null
fi
awk '{ print "# " $0 }' "$work/output"

test=$(cat "$work/test" 2>/dev/null) # none where check refused to begin

exit_status=$PASS
case $test in
$PASS) echo "ok 1 $name" ;;
$SKIP)
	echo "ok 1 $name # SKIP"
	exit_status=$SKIP
	;;
*)
	echo "not ok 1 $name # exit=${test:-none}"
	exit_status=$FAIL
	;;
esac

# what check found, case by case, is a test of its own within the second result
[ ! -e "$work/ktap" ] || sed 's/^/  /' "$work/ktap"
case $verdict in
$CLEAN) echo "ok 2 $name.dma-buf" ;;
$UNTRACEABLE) echo "ok 2 $name.dma-buf # SKIP this kernel can't be traced" ;;
*)
	case $verdict in
	$FINDINGS) why="something is left behind, or a rule broken" ;;
	$INCONCLUSIVE) why="events were lost or not observed" ;;
	*) why="no verdict, dmabuf-trace exit=$verdict" ;;
	esac
	echo "# $why"
	echo "not ok 2 $name.dma-buf"
	exit_status=$FAIL
	;;
esac
exit $exit_status
