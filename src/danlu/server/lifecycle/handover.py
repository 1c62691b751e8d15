"""`--engine vllm`: checks settings, model and adapters, writes vLLM's command, becomes it.

vLLM then answers as danlu would: the same adapters, template, thinking mode and parsers. What it
cannot do is refused before it has loaded anything (`vllm_words.py`). On an NPU vllm-ascend, a
plugin, serves the same command. Sources: vLLM's options (`vllm_options.py`), and VLLM_API_KEY.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NoReturn

from danlu.environment import users_environment
from danlu.errors import DataError, EnvironmentFault, UsageError
from danlu.hub.adapters import AdapterSource, check_base, find_adapter
from danlu.hub.chat_template import template_text
from danlu.hub.fingerprint import fingerprint
from danlu.hub.load import check_model
from danlu.hub.prompting import Prompting, prompting_of_model
from danlu.hub.template_default import TOKENIZER_CONFIG
from danlu.language import _
from danlu.lora.peft_files import merge_it_first
from danlu.lora.stored import StoredAdapter
from danlu.model.config import read_model_json
from danlu.say import say
from danlu.server.lifecycle.opening import model_of, name_of
from danlu.server.lifecycle.vllm_words import check_further, given_names, refuse_or_name
from danlu.server.served_adapters import AdapterFolders
from danlu.server.settings import ServeSettings

EXECUTABLE = "vllm"
# The values that --max-lora-rank takes.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def become_vllm(
    settings: ServeSettings,
    given: Collection[str],
    keys: Sequence[str],
    further: Sequence[str] = (),
) -> NoReturn:
    """Print the command and replace this process by it.

    given: the settings that were not left at their default. keys: those that programs must show.
    further: options of vLLM's own. Raises UsageError and DataError for what vLLM could not serve as
    danlu would, EnvironmentFault where vLLM is not installed.
    """
    for line in (*refuse_or_name(settings), *check_further(further)):
        say(line, to=sys.stderr)
    command = vllm_command(settings, given, further)
    environment = vllm_environment(keys, users_environment())
    if shutil.which(EXECUTABLE) is None:
        raise EnvironmentFault(
            _("vLLM is not installed."),
            why=_("There is no program {name} on the PATH.").format(name=EXECUTABLE),
            fix=_(
                "Install it (pip install vllm; on Ascend pip install vllm vllm-ascend), or leave "
                "--engine vllm out."
            ),
        )
    print(shlex.join(command))
    if keys:
        print(
            _(
                "The key is in VLLM_API_KEY. vLLM does not ask for it everywhere: not for "
                "/metrics, nor for /invocations, which answers, too. Close these paths in a proxy."
            )
        )
    sys.stdout.flush()
    os.execvpe(EXECUTABLE, command, environment)


def vllm_command(
    settings: ServeSettings, given: Collection[str], further: Sequence[str] = ()
) -> list[str]:
    """Check model and adapters, and write the command.

    further: options of vLLM's own; one that danlu would write, too, replaces that.
    """
    folders = AdapterFolders.of(settings.adapter, served_name=settings.served_model_name)
    model, served_name = model_of(settings, folders), name_of(settings, folders)
    checked = check_model(model)
    _check_template(checked.folder)
    sources = {name: find_adapter(str(folder)) for name, folder in folders.named.items()}
    identity = fingerprint(checked.config, checked.weights)
    for source in sources.values():
        check_base(source, name=model, fingerprint=identity)
    prompting = _common_prompting(settings, model, sources)
    options: dict[str, list[str]] = {
        "host": [settings.host],
        "port": [str(settings.port)],
        "served-model-name": [served_name],
        "dtype": [settings.dtype],
        "tensor-parallel-size": [str(settings.tensor_parallel_size)],
        "pipeline-parallel-size": [str(settings.pipeline_parallel_size)],
        **_number("max-model-len", settings.max_model_len),
        # vLLM has a default of its own.
        **_number("max-num-seqs", settings.max_num_seqs if "max_num_seqs" in given else None),
        # vLLM's own is to end running answers at once.
        "shutdown-timeout": [str(math.ceil(settings.drain_s))],
        **_adapter_options(sources),
        **_prompting_options(prompting),
        # Without this, vLLM lets every web page ask.
        "allowed-origins": [json.dumps(list(settings.allowed_origin))],
    }
    if settings.log_prompts:
        options["enable-log-requests"] = []
    replaced = set(given_names(further))
    ours = [[f"--{name}", *values] for name, values in options.items() if name not in replaced]
    return [EXECUTABLE, "serve", str(checked.folder), *chain.from_iterable(ours), *further]


def vllm_environment(keys: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return vLLM's environment: the key in it, not on the command line; no statistics sent."""
    if len(keys) > 1:
        raise UsageError(
            _("vLLM takes one key from its environment, and {count} are given.").format(
                count=len(keys)
            ),
            why=_("Several would have to stand on its command line, where all users see them."),
            fix=_("Leave one key in the key file."),
        )
    environment = {name: value for name, value in environ.items() if name != "DANLU_API_KEY"}
    environment.setdefault("VLLM_NO_USAGE_STATS", "1")
    if keys:
        environment["VLLM_API_KEY"] = keys[0]
    return environment


def _check_template(folder: Path) -> None:
    """Make sure that vLLM finds a chat template in the model's folder, and can read it."""
    path = folder / TOKENIZER_CONFIG
    if path.is_file():
        read_model_json(path)  # vLLM reads it beside a chat_template.jinja, too
    if template_text(folder) is None:
        raise DataError(
            _("The model folder {folder} has no chat template.").format(folder=folder),
            why=_("vLLM takes it from tokenizer_config.json or chat_template.jinja."),
            fix=_("Copy one of these files from the model you started from."),
        )


def _common_prompting(
    settings: ServeSettings, model: str, sources: Mapping[str, AdapterSource]
) -> Prompting:
    """Find the one way of prompting that fits all that is served: vLLM has one default."""
    trained = {name: source.prompting(model) for name, source in sources.items()}
    found = {
        prompting.override(settings.template, settings.enable_thinking)
        for prompting in trained.values() or [prompting_of_model(model)]
    }
    if len(found) > 1:
        raise UsageError(
            _("The adapters were not trained to be prompted alike."),
            why=_("vLLM has one default for all: {list}").format(
                list="; ".join(
                    f"{name}: {prompting.template}, {prompting.enable_thinking}"
                    for name, prompting in trained.items()
                )
            ),
            fix=_("Add --template and --enable_thinking, or serve them one by one."),
        )
    return found.pop()


def _number(name: str, value: int | None) -> dict[str, list[str]]:
    return {} if value is None else {name: [str(value)]}


def _adapter_options(sources: Mapping[str, AdapterSource]) -> dict[str, list[str]]:
    if not sources:
        return {}
    stored = [StoredAdapter(source.folder) for source in sources.values()]
    for adapter in stored:
        # vLLM reads one alpha for all modules and passes over the rest without a word.
        patterns = _("alphas of its own (alpha_pattern)") if adapter.settings.alpha_pattern else ""
        beyond = adapter.beyond_projections or patterns
        if beyond:
            raise merge_it_first(adapter.folder, beyond)
    rank = max(adapter.config.r for adapter in stored)
    if rank > _RANKS[-1]:
        raise UsageError(
            _("An adapter's rank is {rank}.").format(rank=rank),
            why=_("vLLM computes with ranks up to {most}.").format(most=_RANKS[-1]),
            fix=_("Merge the adapter with danlu merge, and serve the merged model."),
        )
    return {
        "enable-lora": [],
        "max-loras": [str(len(sources))],
        "max-lora-rank": [str(next(size for size in _RANKS if size >= rank))],
        "lora-modules": [
            json.dumps({"name": name, "path": str(source.folder)}, ensure_ascii=False)
            for name, source in sources.items()
        ],
    }


def _prompting_options(prompting: Prompting) -> dict[str, list[str]]:
    """Write thinking mode and parsers.

    `qwen3_nothink` never opens a thought, so nothing may look for one: vLLM's parser would take a
    whole answer for reasoning. With `qwen3_thinking` the prompt opens it, and the answer holds only
    its end, as in DeepSeek R1.
    """
    never_thinks = prompting.template == "qwen3_nothink"
    # Qwen3's template leaves the generation prompt alone with true; without it an empty thought.
    thinks = prompting.template != "qwen3" or bool(prompting.enable_thinking)
    options = {
        "default-chat-template-kwargs": [json.dumps({"enable_thinking": thinks})],
        "enable-auto-tool-choice": [],
        "tool-call-parser": ["hermes"],
    }
    if not never_thinks:
        parser = "deepseek_r1" if prompting.template == "qwen3_thinking" else "qwen3"
        options["reasoning-parser"] = [parser]
    return options
