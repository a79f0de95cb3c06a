# SPDX-License-Identifier: Apache-2.0
"""Bad weather: what goes wrong for users, done on purpose in a guest. Standard library only."""
