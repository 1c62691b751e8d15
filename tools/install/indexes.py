"""Asks package indexes, briefly, whether they list a build of torch for a Python and a machine."""

from __future__ import annotations

import platform
import re
import sys
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

# For all indexes together: a machine without network must not wait for its installation.
PATIENCE_S = 5.0
_MOST_BYTES = 8 << 20


def first_listing(
    indexes: Sequence[str],
    version: str,
    build: str,
    *,
    python: tuple[int, int] = sys.version_info[:2],
    machine: str = platform.machine(),
) -> str | None:
    """Return the first of the indexes that lists the build; None where none answers in time."""
    if not indexes:
        return None
    tag = f"cp{python[0]}{python[1]}"
    wheel = rf"torch-{re.escape(version)}(?:%2B|\+){build}-{tag}-[^\"<]*{machine}"
    pool = ThreadPoolExecutor(len(indexes))
    asked = [pool.submit(_lists, index, wheel) for index in indexes]
    done, _late = wait(asked, PATIENCE_S)
    pool.shutdown(wait=False, cancel_futures=True)
    return next(
        (
            index
            for index, answer in zip(indexes, asked, strict=True)
            if answer in done and answer.result()
        ),
        None,
    )


def _lists(index: str, wheel: str) -> bool:
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=PATIENCE_S) as reply:
            page = reply.read(_MOST_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return False
    return re.search(wheel, page, re.IGNORECASE) is not None
