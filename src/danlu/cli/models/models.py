"""`danlu models`: the models that are here and to pull, and what each needs on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from danlu.cli.terminal.screen import json_line
from danlu.errors import EXIT_OK
from danlu.hub.names import STARTER, default_name
from danlu.language import _, columns, padded
from danlu.moving_line import MovingLine
from danlu.say import say
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings
from danlu.units import GIB, readable_bytes

if TYPE_CHECKING:
    from danlu.hub.catalogue.needs import Need
    from danlu.hub.catalogue.offers import Offers
    from danlu.hub.catalogue.published import PublishedModel

_NAME, _COLUMN = 32, 8
_KINDS = ("chat_bf16", "chat_int8", "chat_int4", "lora", "full")


class ModelsSettings(Settings):
    """List the models that are here and those that can be pulled."""

    json_output: bool = option(False, "print JSON, one model a line", aliases=("json",))


def run(argv: Sequence[str]) -> int:
    """Print what is here, then the catalogue with the memory that each model needs."""
    resolved = read_settings(ModelsSettings, "models", argv)
    with MovingLine(_("Looking at the machine")):
        from danlu.hub.catalogue.offers import offer_record, offers

        found = offers()
    if resolved.values.json_output:
        for model, needed in found.needs.items():
            print(json_line(offer_record(model, needed)))
        return EXIT_OK
    default = _("Where none is named: {name}").format(name=default_name())
    say(*here_lines(), default, "", *_catalogue_lines(found))
    return EXIT_OK


def here_lines() -> list[str]:
    """Say which models are on this machine."""
    from danlu.hub.store import models_folder, stored_models

    lines = [_("Here:"), _("  {name}: built in, to try things out").format(name=STARTER)]
    for model in stored_models():
        size = readable_bytes(model.num_bytes)
        text = (
            _("  {name}: {size}")
            if model.is_complete
            else _("  {name}: not complete, {size}; go on with danlu pull {name}")
        )
        lines.append(text.format(name=model.name, size=size))
    lines.append(_("Pulled models are kept in {folder}").format(folder=models_folder()))
    return lines


def _catalogue_lines(offers: Offers) -> list[str]:
    from danlu.hub.catalogue.needs import CHAT_TOKENS, RANK, ROW_TOKENS
    from danlu.hub.catalogue.published import LICENSE

    heads = (_("size"), "bf16", "int8", "int4", "LoRA", _("full"))
    groups = _right(_("chat in"), 4 * _COLUMN) + _right(_("fine-tune"), 2 * _COLUMN)
    return [
        _("Can be pulled with danlu pull NAME (licence {license}):").format(license=LICENSE),
        _("Memory in GiB on {device}").format(device=offers.facts.description),
        _("{budget} can be used; what does not fit stands in brackets.").format(
            budget=readable_bytes(offers.budget_bytes)
        ),
        "",
        padded("", _NAME) + groups,
        padded("  " + _("model"), _NAME) + "".join(_right(head, _COLUMN) for head in heads),
        *(_row(model, found) for model, found in offers.needs.items()),
        "",
        _("Chat: one conversation of {tokens} tokens. LoRA: rank {rank}, rows of {row}.").format(
            tokens=CHAT_TOKENS, rank=RANK, row=ROW_TOKENS
        ),
        _("Fine-tuning: on 16 bits; --quantization_bit 8 or 4 takes less. See danlu plan."),
    ]


def _row(model: PublishedModel, found: Mapping[str, Need]) -> str:
    size = f"{model.file_bytes / GIB:.1f}"
    line = padded(f"  {model.name}", _NAME) + _right(size, _COLUMN)
    return line + "".join(_right(_cell(found.get(kind)), _COLUMN) for kind in _KINDS)


def _cell(need: Need | None) -> str:
    if need is None:
        return "-"
    size = f"{need.num_bytes / GIB:.{0 if need.num_bytes >= 1000 * GIB else 1}f}"
    return size if need.fits else f"({size})"


def _right(text: str, width: int) -> str:
    return " " * max(1, width - columns(text)) + text
