"""Ollama's Modelfile for a model that danlu prompts: the same chat format, in Go's template words.

Source: Ollama's docs, "Modelfile" and "Template" (variables .System, .Messages, .Tools, .Think,
.IsThinkSet). Tool definitions are written by Ollama as JSON without spaces; Qwen3's own template
has them. All else is the text that danlu writes.
"""

from __future__ import annotations

from collections.abc import Mapping

from danlu.hub.prompting import Prompting
from danlu.text.render import (
    EMPTY_THOUGHT,
    THOUGHT_START,
    TOOLS_HEAD,
    TOOLS_TAIL,
    TURN_END,
    TURN_START,
)

MODELFILE = "Modelfile"
_STOPS = (TURN_START, TURN_END, "<|endoftext|>")
_LAST_QUERY = (
    "{{ $last := -1 }}"
    '{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ $last = $i }}{{ end }}{{ end }}'
)
_SYSTEM = (
    "{{ if or .System .Tools }}<|im_start|>system\n"
    "{{ if .System }}{{ .System }}{{ if .Tools }}\n\n{{ end }}{{ end }}"
    "{{ if .Tools }}" + TOOLS_HEAD + "{{ range .Tools }}\n"
    '{"type": "function", "function": {{ .Function }}}{{ end }}' + TOOLS_TAIL + "{{ end }}"
    "<|im_end|>\n{{ end }}"
)
_CALLS = (
    "{{ range $n, $call := $m.ToolCalls }}{{ if or $n $m.Content }}\n{{ end }}<tool_call>\n"
    '{"name": "{{ $call.Function.Name }}", "arguments": {{ $call.Function.Arguments }}}\n'
    "</tool_call>{{ end }}"
)
_THOUGHT = "{{ if and $m.Thinking (gt $i $last) }}<think>\n{{ $m.Thinking }}\n</think>\n\n{{ end }}"
# Results of several calls stand in one turn of the user.
_RESULT = (
    '{{ if ne $before "tool" }}<|im_start|>user{{ end }}'
    "\n<tool_response>\n{{ $m.Content }}\n</tool_response>"
)
_END_OF_RESULTS = "<|im_end|>\n"
# What stands at the beginning of an answer, by format: chosen by who asks, or always the same.
_OPENINGS = {
    "qwen3": "{{ if and .IsThinkSet (not .Think) }}" + EMPTY_THOUGHT + "{{ end }}",
    "qwen3_thinking": f"{THOUGHT_START}\n",
    "qwen3_nothink": "",
}


def go_template(prompting: Prompting) -> str:
    """Write the chat format as a template of Go."""
    opening = EMPTY_THOUGHT if prompting.answers_at_once else _OPENINGS[prompting.template]
    # Ollama takes a template that shows thoughts for that of a model that thinks.
    thinks = prompting.template != "qwen3_nothink" and not prompting.answers_at_once
    return (
        _LAST_QUERY
        + _SYSTEM
        + '{{ $before := "" }}{{ range $i, $m := .Messages }}'
        + '{{ if and (eq $before "tool") (ne $m.Role "tool") }}'
        + _END_OF_RESULTS
        + "{{ end }}"
        + '{{ if eq $m.Role "user" }}<|im_start|>user\n{{ $m.Content }}<|im_end|>\n'
        + '{{ else if eq $m.Role "assistant" }}<|im_start|>assistant\n'
        + (_THOUGHT if thinks else "")
        + "{{ $m.Content }}"
        + _CALLS
        + "<|im_end|>\n"
        + '{{ else if eq $m.Role "tool" }}'
        + _RESULT
        + "{{ end }}{{ $before = $m.Role }}{{ end }}"
        + '{{ if eq $before "tool" }}'
        + _END_OF_RESULTS
        + "{{ end }}<|im_start|>assistant\n"
        + opening
    )


def modelfile(gguf: str, prompting: Prompting, sampling: Mapping[str, float]) -> str:
    """Write the Modelfile beside a GGUF file. sampling: temperature, top_p, top_k."""
    lines = [
        f"FROM ./{gguf}",
        f'TEMPLATE """{go_template(prompting)}"""',
        *(f'PARAMETER stop "{stop}"' for stop in _STOPS),
        *(f"PARAMETER {name} {value:g}" for name, value in sampling.items()),
    ]
    return "\n".join(lines) + "\n"
