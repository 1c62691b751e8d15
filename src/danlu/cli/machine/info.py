"""`danlu info`: the machine, or what a model, adapter or run folder holds; the login banner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from danlu.cli.terminal.fact_table import print_facts
from danlu.cli.terminal.screen import json_line
from danlu.errors import EXIT_OK, UsageError
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.settings.option_names import COMMAND_LINE
from danlu.settings.resolve import Resolved
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.model.config import ModelConfig


class InfoSettings(Settings):
    """Show the machine, or what a folder holds."""

    path: str | None = option(
        None,
        "model name, or a model, adapter or run folder",
        aliases=("model", "model_name_or_path", "adapter", "adapter_name_or_path", "run"),
        position=0,
    )
    json_output: bool = option(False, "print JSON", aliases=("json",))
    banner: bool = option(
        False, "greet at a login: devices, disks, models and what to type next, at once"
    )


def run(argv: Sequence[str]) -> int:
    """Print the facts as a table, or as JSON."""
    resolved = read_settings(InfoSettings, "info", argv)
    settings = resolved.values
    if settings.banner:
        return _banner(resolved)
    with MovingLine(_("Looking at the machine") if settings.path is None else settings.path):
        facts = _machine_facts() if settings.path is None else folder_facts(settings.path)
    if settings.json_output:
        print(json_line(facts))
    else:
        print_facts(facts)
    return EXIT_OK


def _banner(resolved: Resolved[InfoSettings]) -> int:
    # A variable that names the model is for other commands.
    has_path = resolved.origins["path"] == COMMAND_LINE
    if has_path or resolved.values.json_output:
        raise UsageError(
            _("The banner shows this machine, as text."),
            why=_("--banner was given together with a model or --json."),
            fix="danlu info --banner",
        )
    from danlu.cli.terminal.banner import print_banner

    print_banner()
    return EXIT_OK


def _machine_facts() -> dict[str, Any]:
    from danlu.hub.machine_facts import machine_facts

    return machine_facts()


def folder_facts(name: str) -> dict[str, Any]:
    """Return what a model, adapter or run is made of, without loading weights."""
    from danlu.hub.adapters import place_of
    from danlu.lora.peft_files import CONFIG_FILE
    from danlu.lora.stored import StoredAdapter
    from danlu.runs.checkpoints import list_checkpoints
    from danlu.runs.manifest import is_run, read_manifest

    folder = place_of(name)
    if is_run(folder):
        run = read_manifest(folder)
        return {
            "kind": f"run ({run.kind})",
            "state": f"{run.state} {run.detail}".strip(),
            "base": run.base.path,
            "template": run.template,
            "thinking": run.enable_thinking,
            "checkpoints": [checkpoint.step for checkpoint in list_checkpoints(folder)],
            "started": run.started,
            "ended": run.ended,
        }
    if (folder / CONFIG_FILE).is_file():
        stored = StoredAdapter(folder)
        config = stored.config
        beyond = [stored.beyond_projections] if stored.beyond_projections else []
        return {
            "kind": "adapter",
            "base": stored.settings.base,
            "rank": config.r,
            "alpha": config.lora_alpha,
            "targets": ",".join([*config.target_modules, *beyond]),
        }
    return _model_facts(name)


def _model_facts(name: str) -> dict[str, Any]:
    from danlu.hub.chat_template import own_template
    from danlu.hub.fingerprint import fingerprint
    from danlu.hub.load import weights_of
    from danlu.hub.names import model_folder
    from danlu.hub.prompting import prompting_of_model
    from danlu.model.config import load_config
    from danlu.units import readable_bytes

    folder = model_folder(name)
    config = load_config(folder)
    weights = weights_of(folder, config)
    parameters = sum(math.prod(f.tensors[tensor].shape) for tensor, f in weights.files.items())
    prompting, own = prompting_of_model(name), own_template(folder)
    return {
        "kind": "model",
        "folder": str(folder),
        "parameters": parameters,
        **_expert_facts(config),
        "weights": readable_bytes(weights.num_bytes),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "context": config.max_position_embeddings,
        "template": prompting.template,
        "thinking": prompting.enable_thinking,
        "own_template": own.name if own else None,
        "fingerprint": fingerprint(config, weights),
    }


def _expert_facts(config: ModelConfig) -> dict[str, Any]:
    from danlu.model.sizes import num_active_parameters

    if config.experts is None:
        return {}
    return {
        "active_parameters": num_active_parameters(config),
        "experts": config.experts.num_experts,
        "experts_per_token": config.experts.num_experts_per_tok,
    }
