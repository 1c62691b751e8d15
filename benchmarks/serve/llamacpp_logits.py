"""llama.cpp's logits of a text: `llamacpp_logits.py MODEL.gguf TOKENS.json OUTPUT.npy`, over there.

In its own environment; TOKENS.json holds the ids, the array is [tokens, vocab_size] in fp32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from llama_cpp import Llama  # type: ignore[import-not-found]


def main() -> None:
    """Compute and write them."""
    tokens = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    model = Llama(
        sys.argv[1], n_ctx=len(tokens), n_batch=len(tokens), logits_all=True, verbose=False
    )
    model.eval(tokens)
    np.save(sys.argv[3], np.asarray(model.scores[: len(tokens)], dtype=np.float32))


if __name__ == "__main__":
    main()
