"""What a model's name means: `starter` (built in), or a folder in Hugging Face's format.

Loads no torch, so that commands which need only the tokenizer start at once.
"""

from __future__ import annotations

from pathlib import Path

import danlu

STARTER = "starter"


def model_folder(name: str) -> Path:
    """Return the absolute folder a model's name stands for; loading tells whether it is one."""
    if name == STARTER:
        return Path(danlu.__file__).parent / "starter"
    return Path(name).expanduser().absolute()
