"""Options of other programs, and presets: what is accepted, said, refused, and who wins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from danlu.errors import UsageError
from danlu.settings.resolve import resolve
from danlu.settings.schema import Foreign, Settings, foreign, option


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
