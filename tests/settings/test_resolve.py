"""Every way to give a setting, and every way to give it wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.errors import UsageError
from danlu.settings.resolve import resolve
from danlu.settings.schema import Settings, option
from danlu.settings.show import help_text, settings_table


class Demo(Settings):
    """Try things."""

    model_name_or_path: str = option("starter", "the model", aliases=("model",), positional=True)
    do_train: bool = option(False, "train")
    fp16: bool = option(True, "half")
    learning_rate: float = option(1e-4, "rate")
    max_steps: int = option(-1, "steps")
    enable_thinking: bool | None = option(True, "thinking")
    device: Literal["cpu", "npu"] = option("cpu", "device")


def values(*argv: str, environ: dict[str, str] | None = None, yaml_file: bool = True) -> Demo:
    return resolve(Demo, argv, environ or {}, yaml_file=yaml_file).values


def test_flags_as_hugging_face_writes_them() -> None:
    got = values("--do_train", "--fp16", "false", "--learning-rate", "5e-5", "--max_steps=-3")
    assert (got.do_train, got.fp16, got.learning_rate, got.max_steps) == (True, False, 5e-5, -3)


def test_a_boolean_takes_the_next_word_only_if_it_is_one() -> None:
    got = values("--do_train", "my/model")
    assert got.do_train
    assert got.model_name_or_path == "my/model"


def test_negative_numbers_and_null_are_values() -> None:
    got = values("--max_steps", "-1", "--enable_thinking", "null")
    assert got.max_steps == -1
    assert got.enable_thinking is None


def test_precedence_and_origins(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("learning_rate: 1.0e-3\nmax_steps: 5\nmodel: from/yaml\n", encoding="utf-8")
    environ = {"DANLU_MAX_STEPS": "9", "DANLU_DEVICE": "npu"}
    resolved = resolve(Demo, [str(path), "max_steps=7"], environ, yaml_file=True)
    assert resolved.values.max_steps == 7
    assert resolved.values.learning_rate == 1e-3
    assert resolved.values.device == "npu"
    assert resolved.values.model_name_or_path == "from/yaml"
    assert resolved.origins["max_steps"] == "max_steps=7"
    assert resolved.origins["device"] == "DANLU_DEVICE"
    assert resolved.origins["fp16"] == "default"
    assert "DANLU_DEVICE" in settings_table(resolved)


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="--learning_rate") as caught:
        values("--learnign_rate", "1")
    assert caught.value.exit_code == 2


def test_unknown_yaml_key_names_file_and_nearest(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("do_trian: true\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"s\.yaml") as caught:
        values(str(path))
    assert "do_train" in caught.value.fix


def test_wrong_type_names_key_value_and_origin() -> None:
    with pytest.raises(UsageError) as caught:
        values("--max_steps", "many")
    assert "many" in caught.value.what
    assert "--max_steps" in caught.value.why


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("max_steps: 3\n  bad: [\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"s\.yaml:\d"):
        values(str(path))


def test_missing_value_and_stray_word() -> None:
    with pytest.raises(UsageError, match="needs a value"):
        values("--max_steps", "--do_train")
    with pytest.raises(UsageError, match="not expected"):
        values("one", "two")


def test_key_value_is_read_only_after_a_file() -> None:
    assert values("max_steps=3").model_name_or_path == "max_steps=3"


def test_help_lists_every_setting() -> None:
    text = help_text("try", Demo)
    assert all(f"--{field}" in text for field in Demo.model_fields)
    assert "cpu|npu" in text


@given(st.integers(), st.floats(allow_nan=False), st.booleans())
def test_what_is_written_is_what_is_read(steps: int, rate: float, train: bool) -> None:
    got = values(f"--max_steps={steps}", "--learning_rate", repr(rate), "--do_train", str(train))
    assert (got.max_steps, got.learning_rate, got.do_train) == (steps, rate, train)
