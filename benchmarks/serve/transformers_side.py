"""transformers' generate: `python -m benchmarks.serve.transformers_side MODEL`."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM

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
    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()

    def generate(seed: int, length: int, answer: int) -> float:
        ids = torch.tensor([prompt(seed, length)])
        return seconds(
            lambda: model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=answer,
                max_new_tokens=answer,
                pad_token_id=0,
            )
        )

    prefill = median(lambda n: generate(n, PREFILL_TOKENS, 1))
    decode = median(
        lambda n: generate(n, DECODE_PROMPT, DECODE_TOKENS + 1) - generate(n, DECODE_PROMPT, 1)
    )
    report(
        {
            "prefill_tokens_per_s": PREFILL_TOKENS / prefill,
            "decode_tokens_per_s": DECODE_TOKENS / decode,
        }
    )


if __name__ == "__main__":
    main()
