# SPDX-License-Identifier: Apache-2.0
"""``python -m dmabuf_trace``."""

from dmabuf_trace.cli import main

main()
