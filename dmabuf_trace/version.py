# SPDX-License-Identifier: Apache-2.0
"""The tool's version: read by the packaging, written into each recording."""

VERSION = "0.1.0"
