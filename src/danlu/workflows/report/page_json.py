"""A page as JSON, for programs that show it in their own way.

Texts are as they are: whoever shows them has to take them for hostile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from danlu.workflows.report.page import Page, Part, Picture

_PARTS = {
    "Heading": "heading",
    "Paragraph": "paragraph",
    "Table": "table",
    "SideBySide": "side_by_side",
}


def to_json(page: Page, figures: Mapping[str, Any]) -> str:
    """Write a page: its title, the line below, and its parts, each with its kind; no pictures.

    figures: what the page says, as numbers under stable names.
    """
    parts = [_fields(part) for part in page.parts if not isinstance(part, Picture)]
    record = {
        "version": 1,
        "title": page.title,
        "subtitle": page.subtitle,
        "parts": parts,
        "figures": dict(figures),
    }
    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def _fields(part: Part) -> dict[str, Any]:
    return {"kind": _PARTS[type(part).__name__], **asdict(part)}
