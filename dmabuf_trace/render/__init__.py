# SPDX-License-Identifier: Apache-2.0
"""Results -> text for people and for machines; computes nothing."""
