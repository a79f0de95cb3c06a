# SPDX-License-Identifier: Apache-2.0
"""The reference exporter: a kernel module, its client, and the checks of both. See README.md."""
