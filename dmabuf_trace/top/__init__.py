# SPDX-License-Identifier: Apache-2.0
"""``top``: what is alive and what happens now, as a table that a person leaves open.

Data flows from :mod:`activity` (what is counted) by way of a ``Moment`` to :mod:`listings` (its
tables), :mod:`draw` (a screen of them) and :mod:`document` (JSON). Must not know where events come
from.
"""
