# SPDX-License-Identifier: Apache-2.0
"""Tracing and profiling of Linux dma-buf activity."""
