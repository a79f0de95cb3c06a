# SPDX-License-Identifier: Apache-2.0
"""A recording for other tools: a file per format, listed in :mod:`dmabuf_trace.exports.formats`."""
