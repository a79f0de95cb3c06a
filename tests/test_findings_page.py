# SPDX-License-Identifier: Apache-2.0
"""The page on reading findings has each rule, in the order of the checks, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from dmabuf_trace import checks

PAGE = Path(__file__).parents[1] / "analyses" / "FINDINGS.md"


def test_the_page_has_each_rule_once() -> None:
    titles = re.findall(r"^### `([^`]+)`$", PAGE.read_text(), re.MULTILINE)

    assert titles == [rule for check in checks.registry() for rule in check.rules]
