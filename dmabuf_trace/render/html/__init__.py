# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML file that needs nothing else: no network, no server, no program."""

from dmabuf_trace.render.html.document import page_html

__all__ = ["page_html"]
