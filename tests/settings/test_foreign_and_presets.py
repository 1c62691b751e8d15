"""Options of other programs, and presets: what is accepted, said, refused, and who wins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from danlu.chat.settings import ChatSettings
from danlu.cli.data import CheckSettings, PreviewSettings
from danlu.cli.eval import EvalSettings
from danlu.cli.export import ExportSettings
from danlu.cli.generate import GenerateSettings
from danlu.cli.merge import MergeSettings
from danlu.errors import UsageError
from danlu.server.settings import ServeSettings
from danlu.settings.option_names import Names
from danlu.settings.resolve import resolve
from danlu.settings.schema import Foreign, Settings, foreign, option, options_of
from danlu.train.settings import TrainSettings
from tests.helpers.llamafactory import FILES


class Example(Settings):
    """Do an example."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "large": {"rank": "64", "rate": "1e-5"},
        "small": {"rank": "2"},
    }
    FOREIGN: ClassVar[Mapping[str, Foreign]] = {
        **foreign("neat_packing packing", note="packing is always neat"),
        **foreign("use_dora", instead="use plain LoRA"),
        **foreign("optim", instead="leave it out", off=("adamw_torch",)),
    }

    preset: Literal["large", "small"] | None = option(None, "defaults")
    rank: int = option(8, "rank")
    rate: float = option(1e-4, "rate")
    name: str = option("", "name")


@pytest.mark.parametrize(
    "words",
    ["--neat_packing", "--neat_packing true", "--neat-packing=true --rank 8", "--neat_packing yes"],
)
def test_what_changes_nothing_is_accepted_with_a_reason(words: str) -> None:
    resolved = resolve(Example, words.split(), {})
    assert resolved.values == Example()
    (note,) = resolved.notes
    assert "neat_packing" in note
    assert "packing is always neat" in note


def test_options_with_the_same_reason_share_a_line() -> None:
    (note,) = resolve(Example, ["--neat_packing", "--packing"], {}).notes
    assert note.startswith("neat_packing, packing")


@pytest.mark.parametrize("words", ["--use_dora false", "--use_dora=none", "--optim adamw_torch"])
def test_a_value_that_asks_for_nothing_is_accepted_silently(words: str) -> None:
    assert resolve(Example, words.split(), {}).notes == ()


def test_what_would_be_missed_is_refused_with_what_to_use(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("rank: 4\nuse_dora: true\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        resolve(Example, [str(file)], {})
    assert "use_dora true is not supported" in caught.value.what
    assert f"{file}:2" in caught.value.why
    assert caught.value.fix == "use plain LoRA"


def test_a_foreign_value_does_not_swallow_the_next_flag() -> None:
    resolved = resolve(Example, ["--neat_packing", "--rank", "3"], {})
    assert resolved.values.rank == 3


def test_a_preset_gives_defaults_that_everything_else_overrides(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: large\nname: a\n", encoding="utf-8")
    resolved = resolve(Example, [str(file), "rank=3"], {})
    assert (resolved.values.rank, resolved.values.rate) == (3, 1e-5)
    assert resolved.origins["rate"] == "preset large"
    assert resolved.origins["rank"] == "command line"
    with pytest.raises(UsageError, match="preset"):
        resolve(Example, ["--preset", "huge"], {})


def test_yaml_lists_and_mappings_reach_text_options(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("name: [a, b]\n", encoding="utf-8")
    assert resolve(Example, [str(file)], {}).values.name == "a,b"
    file.write_text("name: {cycles: 2, rate: 0.5}\n", encoding="utf-8")
    assert resolve(Example, [str(file)], {}).values.name == '{"cycles": 2, "rate": 0.5}'


def test_a_settings_file_may_lie_under_a_path_with_spaces(tmp_path: Path) -> None:
    file = tmp_path / "我的 数据" / "run.yaml"
    file.parent.mkdir()
    file.write_text("rank: 4\n", encoding="utf-8")
    assert resolve(Example, [str(file), "name=a"], {}).values.rank == 4
    with pytest.raises(UsageError, match="no meaning"):
        resolve(Example, ["write me a run.yaml"], {})


def test_all_that_cannot_be_used_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("rnak: 4\nuse_dora: true\nzzzzzz: 1\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        resolve(Example, [str(file), "--pakcing", "--use_dora", "false", "--nmae=x"], {})
    assert caught.value.what.endswith(": pakcing, nmae, rnak, zzzzzz.")
    pakcing, nmae, rnak, zzzzzz = caught.value.why.splitlines()
    assert "command line" in pakcing
    assert "Did you mean packing?" in pakcing
    assert "Did you mean name?" in nmae
    assert f"{file}:1" in rnak
    assert "Did you mean rank?" in rnak
    assert f"{file}:3" in zzzzzz
    with pytest.raises(UsageError) as caught:
        resolve(Example, [str(file)], {})
    assert f"{file}:2: use_dora true is not supported; use plain LoRA" in caught.value.why


# The options of LLaMA-Factory and transformers, by what danlu train makes of them.
SAID_TO_HAVE_NO_EFFECT = """
    freeze_vision_tower=true image_max_pixels=262144 video_max_pixels=65536 crop_to_patches=true
    max_new_tokens=512 num_beams=1 temperature=0.95 top_p=0.7 save_on_each_node=true
    llamaboard_log_dir=x swanlab_project=p tokenizer_name=x torch_empty_cache_steps=4
    hub_strategy=every_save past_index=-1 split_special_tokens=true fp8_backend=torchao
    double_quantization=true
"""
SILENT = """
    split_special_tokens=false dataloader_drop_last=false freeze_language_model=false media_dir=null
    lora_bias=none eval_delay=0 fp8_backend=auto disable_shuffling=false cp_size=1 use_swanlab=false
"""
REFUSED = """
    dataloader_drop_last=true eval_delay=10 disable_shuffling=true cp_size=2 lora_bias=all
    use_kt=true deepspeed=ds.json neftune_noise_alpha=5 use_swanlab=true
"""


@pytest.mark.parametrize("pair", SAID_TO_HAVE_NO_EFFECT.split())
def test_options_without_effect_are_said(pair: str) -> None:
    (note,) = resolve(TrainSettings, [f"--{pair}"], {}).notes
    assert note.startswith(f"{pair.partition('=')[0]}: no effect here; ")


@pytest.mark.parametrize("pair", SILENT.split())
def test_options_that_ask_for_nothing_are_silent(pair: str) -> None:
    assert resolve(TrainSettings, [f"--{pair}"], {}).notes == ()


@pytest.mark.parametrize("pair", REFUSED.split())
def test_options_that_would_be_missed_are_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="is not supported"):
        resolve(TrainSettings, [f"--{pair}"], {})


@pytest.mark.parametrize("value", ["wandb", "swanlab", "mlflow", "tensorboard,wandb"])
def test_services_that_danlu_never_reports_to_have_a_sentence(value: str) -> None:
    with pytest.raises(UsageError, match="danlu sends nothing to") as caught:
        resolve(TrainSettings, ["--report_to", value], {})
    assert "tensorboard" in caught.value.fix


def test_every_argument_of_transformers_is_known() -> None:
    from transformers import Seq2SeqTrainingArguments

    names = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    assert len(names) > 100
    assert sorted(names - names_of(TrainSettings)) == []


COMMANDS = (
    *(TrainSettings, ChatSettings, GenerateSettings, ServeSettings, EvalSettings),
    *(MergeSettings, ExportSettings, CheckSettings, PreviewSettings),
)


@pytest.mark.parametrize("cls", COMMANDS)
def test_no_option_of_danlu_is_hidden_behind_another_programs(cls: type[Settings]) -> None:
    names = Names(cls)
    for name in own_names(cls):
        assert names.get(name, "here").name in options_of(cls)


# What a command would miss of a file that was written for another one.
MISSED = {
    (TrainSettings, "predict"): "do_predict",
    (MergeSettings, "train"): "output_dir",
    (MergeSettings, "predict"): "output_dir",
    (ExportSettings, "train"): "output_dir",
    (ExportSettings, "predict"): "output_dir",
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("cls", COMMANDS)
def test_every_command_knows_every_name_of_a_file_for_any_of_them(
    cls: type[Settings], file: str, tmp_path: Path
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(FILES[file], encoding="utf-8")
    missed = MISSED.get((cls, file))
    if missed is not None:
        with pytest.raises(UsageError, match=f"{missed} [a-z]+ is not supported"):
            resolve(cls, [str(path)], {})
        return
    # Each line is honoured, has no effect and says so, or asks for nothing.
    resolved = resolve(cls, [str(path)], {})
    said = {name for note in resolved.notes for name in note.partition(":")[0].split(", ")}
    for line in FILES[file].splitlines():
        name, _colon, value = line.partition(": ")
        if Names(cls).get(name, "here").name not in options_of(cls) and name not in said:
            assert value.lower() in (*Foreign.off, *cls.FOREIGN[name].off), line


def test_every_option_of_training_is_known_to_every_command() -> None:
    """danlu's own names are left out: a command must not take them for another program's."""
    loading = {"model", "model_name_or_path", "adapter", "adapter_name_or_path", "dtype", "device"}
    answering = {"template", "enable_thinking", "seed"}
    own = {"preset", "report", "recompute", "micro_batch_tokens", "overlong", "skip_bad_rows"}
    own |= {"num_devices"}
    for cls in COMMANDS:
        unknown = own_names(TrainSettings) - names_of(cls)
        assert sorted(unknown - loading - answering - own) == []


def own_names(cls: type[Settings]) -> set[str]:
    return {n for found in options_of(cls).values() for n in (found.name, *found.aliases)}


def names_of(cls: type[Settings]) -> set[str]:
    return own_names(cls) | set(cls.FOREIGN)
