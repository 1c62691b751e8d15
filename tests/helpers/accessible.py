"""What axe finds wrong with a page for people who do not see it, or use no mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.source import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

_AXE = ROOT / "frontend" / "node_modules" / "axe-core" / "axe.min.js"


def barriers(page: Page) -> list[str]:
    """Return axe's findings of WCAG 2.1 A and AA, one a line; skip where axe is not installed."""
    if not _AXE.exists():
        pytest.skip("axe-core is not installed: npm ci in frontend/")
    # evaluate, not a script element: the page's policy allows none that is not the server's.
    page.evaluate(_AXE.read_text("utf-8"))
    found = page.evaluate(
        "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] })"
        ".then(done => done.violations.map(one => [one.id, one.nodes.map(node =>"
        " node.target.join(' ') + ' ' + (node.any[0]?.message ?? ''))]))"
    )
    return [f"{name}: {node}" for name, nodes in found for node in nodes]
