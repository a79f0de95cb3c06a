# SPDX-License-Identifier: Apache-2.0
"""One question per file; :func:`dmabuf_trace.analysis.registry` finds them."""
