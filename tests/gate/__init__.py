# SPDX-License-Identifier: Apache-2.0
"""Runs in guests: what ``check`` must find, what it must not, and what CI sees of it."""
