"""`--engine vllm`: the command that vLLM gets, recorded by a stand-in for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.main import main
from danlu.environment import AUTOLOAD, users_environment
from danlu.errors import DataError, EnvironmentFault, UsageError
from danlu.files.committed import committed_folder
from danlu.lora.adapter import LoraConfig
from danlu.lora.peft_files import write_adapter
from danlu.model.config import load_config
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import BaseRecord, RunManifest
from danlu.server.edge.keys import key_texts
from danlu.server.lifecycle.handover import become_vllm, vllm_command, vllm_environment
from danlu.server.settings import ServeSettings
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.packed import random_adapter

RECORDER = """#!{python}
import json, os, sys
facts = {{"argv": sys.argv[1:], "env": dict(os.environ)}}
with open({record!r}, "w") as file:
    file.write(json.dumps(facts))
sys.exit(7)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template, adapters of rank 4 and 12, and two runs."""
    folder = tmp_path_factory.mktemp("handover")
    write_model_folder(folder / "model")
    write_model_folder(folder / "bare")
    write_model_folder(folder / "other")
    for name in ("model", "other"):
        config_file = folder / name / "tokenizer_config.json"
        fields = json.loads(config_file.read_text()) if config_file.is_file() else {}
        config_file.write_text(json.dumps({**fields, "chat_template": "{{ messages }}"}))
    config = load_config(folder / "model")
    for name, rank in (("four", 4), ("twelve", 12), ("huge", 600)):
        with committed_folder(folder / name) as draft:
            adapter = random_adapter(LoraConfig(r=rank, target_modules=("q_proj",)), config)
            write_adapter(draft, adapter, base_model="tiny")
    from danlu.hub.fingerprint import fingerprint
    from danlu.weights.sharded import WeightFolder

    own = fingerprint(config, WeightFolder(folder / "model"))
    for name, template, thinks, base in (
        ("thinks", "qwen3", True, own),
        ("answers", "qwen3", False, own),
        ("plain", "qwen3_nothink", None, own),
        ("stranger", "qwen3", True, "another"),
    ):
        record = BaseRecord(name="m", path=str(folder / "model"), fingerprint=base)
        manifest = RunManifest(
            state="finished", base=record, template=template, enable_thinking=thinks
        )
        with RunFolder.create(folder / name) as held:
            held.write(manifest)
        with committed_folder(folder / name / "final") as draft:
            write_adapter(draft, random_adapter(LoraConfig(r=8), config), base_model="tiny")
    return folder


def command(folder: Path, *, given: set[str] | None = None, **settings: Any) -> list[str]:
    values = {"model_name_or_path": str(folder / "model"), "engine": "vllm", **settings}
    return vllm_command(ServeSettings(**values), given or set(settings))


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_the_command(made: Path) -> None:
    words = command(made, adapter=(f"a={made / 'four'}", f"b={made / 'twelve'}"), port=9000)
    assert words[:3] == ["vllm", "serve", str(made / "model")]
    assert value_of(words, "--host") == "127.0.0.1"
    assert value_of(words, "--port") == "9000"
    assert value_of(words, "--served-model-name") == "model"
    assert "--enable-lora" in words
    assert value_of(words, "--max-loras") == "2"
    assert value_of(words, "--max-lora-rank") == "16"
    at = words.index("--lora-modules")
    assert [json.loads(word) for word in words[at + 1 : at + 3]] == [
        {"name": "a", "path": str(made / "four")},
        {"name": "b", "path": str(made / "twelve")},
    ]
    assert value_of(words, "--reasoning-parser") == "qwen3"
    assert value_of(words, "--tool-call-parser") == "hermes"
    assert "--enable-auto-tool-choice" in words
    assert value_of(words, "--allowed-origins") == "[]"
    assert "--max-num-seqs" not in words  # vLLM's own default, unless it was asked for


def test_limits_and_devices(made: Path) -> None:
    words = command(
        made,
        max_model_len=2048,
        max_num_seqs=16,
        tensor_parallel_size=4,
        pipeline_parallel_size=2,
        served_model_name="big",
        dtype="bfloat16",
        allowed_origin=("https://a.example",),
    )
    assert value_of(words, "--max-model-len") == "2048"
    assert value_of(words, "--max-num-seqs") == "16"
    assert value_of(words, "--tensor-parallel-size") == "4"
    assert value_of(words, "--pipeline-parallel-size") == "2"
    assert value_of(words, "--served-model-name") == "big"
    assert value_of(words, "--dtype") == "bfloat16"
    assert value_of(words, "--allowed-origins") == '["https://a.example"]'
    assert "--enable-lora" not in words


@pytest.mark.parametrize(
    ("run", "settings", "thinks", "parser"),
    [
        ("thinks", {}, True, "qwen3"),
        ("answers", {}, False, "qwen3"),
        ("answers", {"enable_thinking": True}, True, "qwen3"),
        # It never opens a thought: a parser would take the whole answer for one.
        ("plain", {}, True, None),
        # The prompt opens it, so the answer holds only its end.
        (None, {"template": "qwen3_thinking"}, True, "deepseek_r1"),
        (None, {}, True, "qwen3"),
        (None, {"enable_thinking": False}, False, "qwen3"),
    ],
)
def test_prompting_is_handed_over(
    made: Path, run: str | None, settings: dict[str, Any], thinks: bool, parser: str | None
) -> None:
    adapters = (f"x={made / run}",) if run else ()
    words = command(made, adapter=adapters, **settings)
    kwargs = json.loads(value_of(words, "--default-chat-template-kwargs"))
    assert kwargs == {"enable_thinking": thinks}
    assert (value_of(words, "--reasoning-parser") if parser else None) == parser
    assert ("--reasoning-parser" in words) == (parser is not None)


def test_the_base_is_found_through_the_adapter(made: Path) -> None:
    words = command(made, model_name_or_path=None, adapter=(f"x={made / 'thinks'}",))
    assert words[2] == str(made / "model")
    assert str(made / "thinks" / "final") in value_of(words, "--lora-modules")


@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({"model_name_or_path": "{made}/missing"}, UsageError, "does not exist"),
        ({"model_name_or_path": "{made}/bare"}, DataError, "no chat template"),
        ({"adapter": ("x={made}/missing",)}, UsageError, "not an adapter folder"),
        ({"adapter": ("x={made}/stranger",)}, DataError, "another base"),
        ({"adapter": ("x={made}/huge",)}, UsageError, "danlu merge"),
        ({"adapter": ("x={made}/thinks", "y={made}/answers")}, UsageError, "--enable_thinking"),
        ({"quantization": "int8"}, UsageError, "quantization has no meaning"),
        ({"adapter_dir": "{made}"}, UsageError, "adapter_dir has no meaning"),
    ],
)
def test_what_vllm_could_not_serve_is_refused(
    made: Path, settings: dict[str, Any], kind: type[Exception], says: str
) -> None:
    filled = {
        name: tuple(word.format(made=made) for word in value)
        if isinstance(value, tuple)
        else value.format(made=made)
        for name, value in settings.items()
    }
    with pytest.raises(kind, match=says):
        command(made, **filled)


def test_a_damaged_tokenizer_config_is_refused_beside_a_template(tmp_path: Path) -> None:
    write_model_folder(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages }}")
    assert command(tmp_path)
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"chat_template": ')
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        command(tmp_path)


def outcome(folder: Path, **settings: Any) -> object:
    """What vLLM gets of settings, or why they are refused."""
    values = {"model_name_or_path": str(folder / "model"), "engine": "vllm", **settings}
    served = ServeSettings.model_validate(values)
    try:
        words = vllm_command(served, set(settings))
    except UsageError as problem:
        return problem.what
    return words, vllm_environment(key_texts(served), {})


def test_no_setting_is_ignored(made: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret-key\n")
    keys.chmod(0o600)
    others = {
        "model_name_or_path": str(made / "other"), "adapter": (f"a={made / 'four'}",),
        "adapter_dir": str(made), "served_model_name": "big", "host": "127.0.0.2", "port": 9000,
        "api_key_file": str(keys), "api_key": "secret-key", "allowed_host": ("my-box",),
        "allowed_origin": ("https://a.example",), "max_num_seqs": 3, "max_queue": 3,
        "max_requests_per_key": 3, "max_model_len": 1024, "max_body_bytes": 1024,
        "dtype": "bfloat16", "quantization": "int8", "cache_tokens": 512, "device": "cpu",
        "template": "qwen3_nothink", "enable_thinking": False, "drain_s": 3.0, "log_prompts": True,
        "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "merge_adapter": True,
    }  # fmt: skip
    assert set(others) | {"engine"} == set(ServeSettings.model_fields)
    plain = outcome(made)
    for name, value in others.items():
        found = outcome(made, **{name: value})
        assert found != plain, f"{name} is neither handed over nor refused"
        assert not isinstance(found, str) or found.startswith(f"--{name} has no meaning")


def test_the_key_goes_through_the_environment() -> None:
    settings = ServeSettings.model_validate({"api_key": "secret-key"})
    environment = vllm_environment(
        key_texts(settings), {"PATH": "/bin", "DANLU_API_KEY": "secret-key"}
    )
    assert environment == {
        "PATH": "/bin", "VLLM_API_KEY": "secret-key", "VLLM_NO_USAGE_STATS": "1"
    }  # fmt: skip


def test_one_key_only(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("one\ntwo\n")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="one key"):
        vllm_environment(key_texts(ServeSettings(api_key_file=str(path))), {})


def test_without_vllm_it_says_how_to_install_it(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(made))
    settings = ServeSettings(model_name_or_path=str(made / "model"))
    with pytest.raises(EnvironmentFault, match="not installed"):
        become_vllm(settings, set(), [])
    assert main(["serve", str(made / "model"), "--engine", "vllm"]) == 3
    assert "vllm-ascend" in capsys.readouterr().err


def test_the_process_becomes_vllm(made: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    stand_in = tmp_path / "bin" / "vllm"
    stand_in.parent.mkdir()
    stand_in.write_text(RECORDER.format(python=sys.executable, record=str(record)))
    stand_in.chmod(0o755)
    environment = {
        **users_environment(),
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
        "DANLU_API_KEY": "secret-key",
    }
    words = ["serve", str(made / "model"), "--engine", "vllm", "--host", "0.0.0.0"]
    done = subprocess.run(
        [sys.executable, "-m", "danlu.cli.main", *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr  # the stand-in's own
    facts = json.loads(record.read_text())
    assert facts["argv"][:2] == ["serve", str(made / "model")]
    assert facts["env"]["VLLM_API_KEY"] == "secret-key"
    # What danlu has set for itself stays behind: vLLM loads torch_npu through torch.
    assert not {"DANLU_API_KEY", AUTOLOAD} & facts["env"].keys()
    assert done.stdout.startswith(f"vllm serve {made / 'model'}")
    assert "secret-key" not in done.stdout + done.stderr + " ".join(facts["argv"])
