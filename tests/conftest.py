"""What holds for the whole suite, and for the programs it starts."""

from __future__ import annotations

import os

# Sentences are compared in English, whatever the language of the machine.
os.environ["DANLU_LANG"] = "en"
# Tiny models are slower with more threads, and much slower where another program computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
