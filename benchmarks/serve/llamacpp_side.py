"""llama.cpp through its Python binding: `llamacpp_side.py MODEL.gguf`, in its own environment."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from llama_cpp import Llama  # type: ignore[import-not-found]

from benchmarks.serve.task import (
    DECODE_PROMPT,
    DECODE_TOKENS,
    PREFILL_TOKENS,
    THREADS,
    median,
    prompt,
    report,
    seconds,
)


def main() -> None:
    """Measure and report."""
    model = Llama(
        sys.argv[1],
        n_ctx=2048,
        n_batch=PREFILL_TOKENS,
        n_threads=THREADS,
        n_threads_batch=THREADS,
        verbose=False,
    )

    def read(seed: int, length: int) -> float:
        model.reset()
        return seconds(lambda: model.eval(prompt(seed, length)))

    def write(seed: int) -> float:
        read(seed, DECODE_PROMPT)

        def go_on() -> None:
            for _ in range(DECODE_TOKENS):
                model.eval([model.sample(temp=0.0)])

        return seconds(go_on)

    report(
        {
            "prefill_tokens_per_s": PREFILL_TOKENS / median(lambda n: read(n, PREFILL_TOKENS)),
            "decode_tokens_per_s": DECODE_TOKENS / median(write),
        }
    )


if __name__ == "__main__":
    main()
