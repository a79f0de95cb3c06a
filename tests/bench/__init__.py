# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: commands that print ratios against a peer, measured in one run; and the soak."""
