"""Answers of llama.cpp for `tools.gguf_check`, which starts this in llama.cpp's own environment.

Standard input: {"gguf": path, "max_tokens": n, "probes": [{"messages", "enable_thinking"}]}; a
probe without enable_thinking leaves it to the template. Standard output: a list of {"text",
"prompt_ids", "answer_ids"}. Knows nothing of danlu.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from llama_cpp import Llama  # type: ignore[import-not-found]


def main() -> None:
    """Open the file and answer every probe greedily."""
    task = json.load(sys.stdin)
    model = Llama(task["gguf"], n_ctx=1024, n_threads=2, verbose=False, logits_all=False)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    template = environment.from_string(model.metadata["tokenizer.chat_template"])
    answers: list[dict[str, Any]] = []
    for probe in task["probes"]:
        text = template.render(**probe, add_generation_prompt=True)
        ids = model.tokenize(text.encode(), add_bos=False, special=True)
        answer: list[int] = []
        model.reset()
        model.eval(ids)
        while len(answer) < task["max_tokens"]:
            token = model.sample(temp=0.0, repeat_penalty=1.0)
            answer.append(token)
            if token == model.token_eos():
                break
            model.eval([token])
        answers.append({"text": text, "prompt_ids": ids, "answer_ids": answer})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
