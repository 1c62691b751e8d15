"""A served model, handed over to vLLM: checks model and adapters, writes the command, becomes it.

vLLM then answers as danlu would: the same adapters, template, thinking mode and parsers. What it
cannot do is refused before it has loaded anything. On an NPU vllm-ascend, a plugin, serves the same
command. Sources: `vllm serve --help` (its options, and VLLM_API_KEY).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from danlu.errors import DataError, EnvironmentFault, UsageError
from danlu.hub.adapters import AdapterSource, check_base, find_adapter
from danlu.hub.fingerprint import fingerprint
from danlu.hub.load import check_model
from danlu.hub.prompting import Prompting, prompting_of_model
from danlu.language import _
from danlu.lora.peft_files import merge_it_first
from danlu.lora.stored import StoredAdapter
from danlu.reasons import as_sentence, reason_of

EXECUTABLE = "vllm"
# The values that --max-lora-rank takes.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, kw_only=True)
class VllmServer:
    """What vLLM is to serve, and how. None leaves a value to vLLM, or to the model's training.

    model: a folder or a name. served_name: what requests call it. adapters: folders by the name
    that requests give them.
    """

    model: str
    served_name: str
    host: str
    port: int
    dtype: str
    adapters: Mapping[str, Path] = field(default_factory=dict)
    template: str | None = None
    enable_thinking: bool | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    allowed_origins: tuple[str, ...] = ()


def become_vllm(server: VllmServer, keys: Sequence[str]) -> NoReturn:
    """Print the command and replace this process by it. keys: those that programs must show.

    Raises UsageError and DataError for what vLLM could not serve as danlu would, EnvironmentFault
    where vLLM is not installed.
    """
    command = vllm_command(server)
    environment = vllm_environment(keys, os.environ)
    if shutil.which(EXECUTABLE) is None:
        raise EnvironmentFault(
            _("vLLM is not installed."),
            why=_("There is no program {name} on the PATH.").format(name=EXECUTABLE),
            fix=_(
                "pip install vllm (NVIDIA), or pip install vllm vllm-ascend (Ascend); or leave "
                "--engine vllm out"
            ),
        )
    print(shlex.join(command))
    if keys:
        print(_("The key is in VLLM_API_KEY. vLLM asks for it below /v1 only, not for /metrics."))
    sys.stdout.flush()
    os.execvpe(EXECUTABLE, command, environment)


def vllm_command(server: VllmServer) -> list[str]:
    """Check model and adapters, and write the command."""
    checked = check_model(server.model)
    _check_template(checked.folder)
    sources = {name: find_adapter(str(folder)) for name, folder in server.adapters.items()}
    identity = fingerprint(checked.config, checked.weights)
    for source in sources.values():
        check_base(source, name=server.model, fingerprint=identity)
    prompting = _common_prompting(server, sources)
    return [
        *(EXECUTABLE, "serve", str(checked.folder)),
        *("--host", server.host, "--port", str(server.port)),
        *("--served-model-name", server.served_name),
        *("--dtype", server.dtype),
        *("--tensor-parallel-size", str(server.tensor_parallel_size)),
        *("--pipeline-parallel-size", str(server.pipeline_parallel_size)),
        *_flag("--max-model-len", server.max_model_len),
        *_flag("--max-num-seqs", server.max_num_seqs),
        *_adapter_words(sources),
        *_prompting_words(prompting),
        # Without this, vLLM lets every web page ask.
        *("--allowed-origins", json.dumps(list(server.allowed_origins))),
    ]


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
    """Make sure that vLLM finds a chat template in the model's folder."""
    path = folder / "tokenizer_config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found = bool(fields.get("chat_template"))
    except (ValueError, AttributeError) as problem:
        raise DataError(
            _("{path} cannot be used.").format(path=path),
            why=as_sentence(reason_of(problem)),
            fix=_("Download the model's files again, or correct the file."),
        ) from problem
    if not found and not (folder / "chat_template.jinja").is_file():
        raise DataError(
            _("The model folder {folder} has no chat template.").format(folder=folder),
            why=_("vLLM takes it from tokenizer_config.json or chat_template.jinja."),
            fix=_("Copy one of these files from the model you started from."),
        )


def _common_prompting(server: VllmServer, sources: Mapping[str, AdapterSource]) -> Prompting:
    """Find the one way of prompting that fits all that is served: vLLM has one default."""
    trained = {name: source.prompting(server.model) for name, source in sources.items()}
    found = {
        prompting.override(server.template, server.enable_thinking)
        for prompting in trained.values() or [prompting_of_model(server.model)]
    }
    if len(found) > 1:
        raise UsageError(
            _("The adapters were not trained to be prompted alike."),
            why=_("VLLM has one default for all: {list}.").format(
                list="; ".join(
                    f"{name}: {prompting.template}, {prompting.enable_thinking}"
                    for name, prompting in trained.items()
                )
            ),
            fix=_("Add --template and --enable_thinking, or serve them one by one."),
        )
    return found.pop()


def _flag(name: str, value: int | None) -> list[str]:
    return [] if value is None else [name, str(value)]


def _adapter_words(sources: Mapping[str, AdapterSource]) -> list[str]:
    if not sources:
        return []
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
    return [
        *("--enable-lora", "--max-loras", str(len(sources))),
        *("--max-lora-rank", str(next(size for size in _RANKS if size >= rank))),
        "--lora-modules",
        *(
            json.dumps({"name": name, "path": str(source.folder)}, ensure_ascii=False)
            for name, source in sources.items()
        ),
    ]


def _prompting_words(prompting: Prompting) -> list[str]:
    """Write thinking mode and parsers.

    `qwen3_nothink` never opens a thought, so nothing may look for one: vLLM's parser would take a
    whole answer for reasoning. With `qwen3_thinking` the prompt opens it, and the answer holds only
    its end, as in DeepSeek R1.
    """
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    never_thinks = prompting.template == "qwen3_nothink"
    # Qwen3's template leaves the generation prompt alone with true; without it an empty thought.
    thinks = prompting.template != "qwen3" or bool(prompting.enable_thinking)
    words = ["--default-chat-template-kwargs", json.dumps({"enable_thinking": thinks}), *tools]
    if never_thinks:
        return words
    parser = "deepseek_r1" if prompting.template == "qwen3_thinking" else "qwen3"
    return [*words, "--reasoning-parser", parser]
