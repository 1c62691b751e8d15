"""The whole suite reads English sentences, whatever the language of the machine."""

from __future__ import annotations

import os

os.environ["DANLU_LANG"] = "en"
