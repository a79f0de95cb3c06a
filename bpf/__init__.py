# SPDX-License-Identifier: Apache-2.0
"""The programs that run in the kernel, and their compiled objects, as package data."""
