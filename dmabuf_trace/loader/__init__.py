# SPDX-License-Identifier: Apache-2.0
"""Opens, loads and attaches the BPF programs, drops the counters out, detaches.

Must not know what an event means.
"""
