# SPDX-License-Identifier: Apache-2.0
"""Tests that leak on purpose, for the pytest plugin to judge in a guest."""
