"""What `danlu serve --engine vllm` makes of each setting, and of the words behind `--`.

A setting is handed over, refused or named as one that means nothing there: nothing is dropped in
silence. What danlu has no setting for, stands behind `--` as vLLM calls it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from danlu.errors import UsageError
from danlu.language import _
from danlu.server.lifecycle.vllm_options import FIRST, LAST, OPTIONS, SHORT
from danlu.server.settings import ServeSettings

# By setting: the options that are written for it. A model is the first word, a key goes through the
# environment.
HANDED_OVER: Mapping[str, tuple[str, ...]] = {
    "model_name_or_path": ("model",),
    "adapter": ("lora-modules", "enable-lora", "max-loras", "max-lora-rank"),
    "served_model_name": ("served-model-name",),
    "host": ("host",),
    "port": ("port",),
    "api_key": ("api-key",),
    "api_key_file": ("api-key",),
    "allowed_origin": ("allowed-origins",),
    "max_num_seqs": ("max-num-seqs",),
    "max_model_len": ("max-model-len",),
    "dtype": ("dtype",),
    "template": ("default-chat-template-kwargs", "reasoning-parser"),
    "enable_thinking": ("default-chat-template-kwargs",),
    "drain_s": ("shutdown-timeout",),
    "log_prompts": ("enable-log-requests",),
    "engine": (),
    "tensor_parallel_size": ("tensor-parallel-size",),
    "pipeline_parallel_size": ("pipeline-parallel-size",),
}
# What users would miss, and what they can do instead.
REFUSED = {
    "merge_adapter": "Merge it with danlu merge, and serve the merged model.",
    "adapter_dir": "Name every adapter: --adapter NAME=PATH",
    "max_requests_per_key": "Leave it out, or limit requests in a proxy before vLLM.",
    "quantization": "Leave it out, or name a way of vLLM's: -- --quantization NAME",
    "device": "Leave it out: vLLM computes on what it was built for.",
}
# What vLLM does otherwise, and answers all the same.
MEANINGLESS = {
    "allowed_host": "vLLM answers under any name",
    "max_queue": "in vLLM all wait; from 0.29 on there is -- --max-num-queued-reqs",
    "max_body_bytes": "vLLM reads bodies of any size",
    "cache_tokens": "vLLM takes a share of the memory: -- --gpu-memory-utilization 0.9",
}
# What cannot stand behind `--`, for it is a setting of danlu's; others replace what danlu writes.
_SETTING_OF = {
    words[0]: name
    for name, words in HANDED_OVER.items()
    if words and name not in ("template", "enable_thinking")
}
_VALUE = re.compile(r"-?\.?\d.*|[^-].*|-?", re.DOTALL)


def refuse_or_name(settings: ServeSettings) -> list[str]:
    """Refuse what vLLM cannot do; return a line for each setting that means nothing there."""
    for name, instead in REFUSED.items():
        if _is_asked(settings, name):
            raise UsageError(
                _("--{name} has no meaning with --engine vllm.").format(name=name),
                why=_("vLLM has no such setting, or does it in its own way."),
                fix=_(instead),
            )
    return [
        _("--{name} has no meaning with --engine vllm: {reason}.").format(name=name, reason=_(note))
        for name, note in MEANINGLESS.items()
        if _is_asked(settings, name)
    ]


def check_further(words: Sequence[str]) -> list[str]:
    """Check vLLM's own options; return a line for each that no version known here has.

    Raises UsageError for a word that is none, for one that is a setting of danlu's, and for one
    that is nearly another's name.
    """
    if words and _VALUE.fullmatch(words[0]):
        raise UsageError(
            _("The word {word} has no meaning here.").format(word=repr(words[0])),
            why=_("Behind -- stand options of vLLM, and it is none."),
            fix=_("Write --name value, as vllm serve --help=all lists them."),
        )
    lines = []
    for name in given_names(words):
        setting = _SETTING_OF.get(name)
        if setting is not None:
            raise UsageError(
                _("--{name} cannot stand behind --.").format(name=name),
                why=_("danlu checks and writes it by itself."),
                fix=_("Write it before, as danlu calls it: --{setting}").format(setting=setting),
            )
        if _is_known(name):
            continue
        near = difflib.get_close_matches(name, [*OPTIONS, *_SETTING_OF], 1, 0.8)
        if near:
            raise UsageError(
                _("vLLM has no option --{name}.").format(name=name),
                why=_("None of its versions from 0.{first} to 0.{last} has it.").format(
                    first=FIRST, last=LAST
                ),
                fix=_("Did you mean --{name}?").format(name=near[0]),
            )
        lines.append(
            _(
                "--{name} is unknown here (vLLM 0.{first} to 0.{last} were read); vLLM decides."
            ).format(name=name, first=FIRST, last=LAST)
        )
    return lines


def given_names(words: Iterable[str]) -> list[str]:
    """List the options among words by their long names: `-tp`, `--a_b=1` and `--a-b.c 1` too."""
    found = []
    for word in words:
        if not _VALUE.fullmatch(word):
            name = re.split(r"[=.]", word.lstrip("-"), maxsplit=1)[0]
            is_long = word.startswith("--")
            found.append(
                name.replace("_", "-") if is_long else SHORT.get(name.rstrip("0123"), name)
            )
    return found


def _is_known(name: str) -> bool:
    """Whether it is an option, or what switches one off."""
    bare = re.sub("^no-", "", name)
    switched = re.sub("^disable-", "enable-", bare)
    return bool({name, bare, switched} & OPTIONS.keys())


def _is_asked(settings: ServeSettings, name: str) -> bool:
    return bool(getattr(settings, name) != type(settings).model_fields[name].default)
