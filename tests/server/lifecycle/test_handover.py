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
from danlu.server.lifecycle.vllm_options import FIRST, LAST, OPTIONS
from danlu.server.lifecycle.vllm_words import (
    HANDED_OVER,
    MEANINGLESS,
    REFUSED,
    check_further,
    given_names,
    refuse_or_name,
)
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
    served = ServeSettings(**values)
    refuse_or_name(served)
    return vllm_command(served, given or set(settings))


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
        ({"device": "cpu"}, UsageError, "device has no meaning"),
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


def test_every_setting_is_handed_over_refused_or_named(made: Path, tmp_path: Path) -> None:
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
        "template": "qwen3_nothink", "enable_thinking": False, "drain_s": 2.5, "log_prompts": True,
        "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "merge_adapter": True,
        "engine": "vllm",
    }  # fmt: skip
    kinds = (HANDED_OVER, REFUSED, MEANINGLESS)
    assert sorted(name for kind in kinds for name in kind) == sorted(ServeSettings.model_fields)
    assert others.keys() == ServeSettings.model_fields.keys()
    plain = asked(made)
    for name, value in others.items():
        if name in REFUSED:
            with pytest.raises(UsageError, match=f"^--{name} has no meaning") as refused:
                asked(made, **{name: value})
            assert refused.value.why
            assert refused.value.fix
            continue
        command, environment, lines = asked(made, **{name: value})
        if name in MEANINGLESS:
            assert (command, environment) == plain[:2]
            assert len(lines) == 1
            assert lines[0].startswith(f"--{name} has no meaning")
        elif name != "engine":
            assert (command, environment) != plain[:2], f"{name} is not handed over"
            assert not lines


def asked(
    folder: Path, *further: str, **settings: Any
) -> tuple[list[str], dict[str, str], list[str]]:
    """The command, the environment and the lines for settings and words behind `--`."""
    values = {"model_name_or_path": str(folder / "model"), "engine": "vllm", **settings}
    served = ServeSettings.model_validate(values)
    lines = [*refuse_or_name(served), *check_further(further)]
    command = vllm_command(served, set(settings), further)
    return command, vllm_environment(key_texts(served), {}), lines


def test_every_version_has_all_that_danlu_writes(made: Path) -> None:
    adapters = (f"a={made / 'four'}",)
    words, _environment, _lines = asked(
        made, adapter=adapters, max_model_len=64, max_num_seqs=2, log_prompts=True
    )
    names = given_names(words[3:])
    written = {option for options in HANDED_OVER.values() for option in options}
    assert written - {"model", "api-key"} <= set(names)
    for name in {*names, *written}:
        assert OPTIONS[name] == (FIRST, LAST), name


def test_what_ends_and_what_is_logged(made: Path) -> None:
    words = command(made, drain_s=2.5)
    assert value_of(words, "--shutdown-timeout") == "3"
    assert "--enable-log-requests" not in words
    assert "--enable-log-requests" in command(made, log_prompts=True)


def test_defaults_that_are_written_out_are_no_wish(made: Path) -> None:
    settings = {"merge_adapter": False, "quantization": None, "device": "auto", "max_queue": 256}
    assert asked(made, **settings)[2] == []


SEVERAL = {
    "experts": ["--enable-expert-parallel", "--enable-eplb", "--all2all-backend", "pplx"],
    "data parallel": ["-dp", "4", "-dpl=2", "--data-parallel-address", "10.0.0.1", "-dpp", "13345"],
    "a further node": ["--headless", "--data_parallel_start_rank", "2", "--no-enable-eplb"],
    "nodes without Ray": ["--nnodes", "2", "--node-rank=0", "--master-addr", "10.0.0.1"],
    "loras": ["--max-cpu-loras", "8", "--fully-sharded-loras", "--lora-dtype", "bfloat16"],
    "values": ["--additional-config", '{"a": -1}', "-O3", "--compilation-config.mode", "3",
               "--seed", "-1", "--quantization", "fp8", "--disable-prefix-caching"],
}  # fmt: skip


@pytest.mark.parametrize("further", SEVERAL.values(), ids=SEVERAL)
def test_vllms_own_options_follow(made: Path, further: list[str]) -> None:
    command, _environment, lines = asked(made, *further, tensor_parallel_size=2)
    assert command[-len(further) :] == further
    assert value_of(command, "--tensor-parallel-size") == "2"
    assert not lines


def test_what_danlu_would_write_is_replaced(made: Path) -> None:
    adapters = (f"a={made / 'four'}", f"b={made / 'twelve'}")
    command = asked(made, "--max_loras=1", "--tool-call-parser", "qwen3_xml", adapter=adapters)[0]
    assert command[-3:] == ["--max_loras=1", "--tool-call-parser", "qwen3_xml"]
    assert "--max-loras" not in command
    assert command.count("--tool-call-parser") == 1
    assert "hermes" not in command


@pytest.mark.parametrize(
    ("further", "says", "fix"),
    [
        (["--data-paralel-size", "2"], "no option --data-paralel-size", "--data-parallel-size"),
        (["--enable-experts-parallel"], "no option", "--enable-expert-parallel"),
        (["--port", "1"], "--port cannot", "--port"),
        (["-tp", "2"], "--tensor-parallel-size cannot", "--tensor_parallel_size"),
        (["--lora_modules", "a=b"], "--lora-modules cannot", "--adapter"),
        (["--api-key=secret"], "--api-key cannot", "--api_key_file"),
        (["my-model"], "'my-model' has no meaning", "--name value"),
    ],
)
def test_words_that_vllm_would_not_take_are_refused(
    further: list[str], says: str, fix: str
) -> None:
    with pytest.raises(UsageError) as refused:
        check_further(further)
    assert says in refused.value.what
    assert fix in str(refused.value.fix)
    assert "secret" not in f"{refused.value.what} {refused.value.why} {refused.value.fix}"


def test_an_option_of_a_version_to_come_is_passed_on(made: Path) -> None:
    command, _environment, lines = asked(made, "--zero-copy-everything", "on")
    assert command[-2:] == ["--zero-copy-everything", "on"]
    assert len(lines) == 1
    assert "--zero-copy-everything" in lines[0]


def test_danlus_own_engine_takes_no_options_of_vllms(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(made / "model"), "--", "--headless"]) == 2
    assert "--engine vllm" in capsys.readouterr().err


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
    words += ["--max_queue", "3", "--", "-dp", "2", "--debug"]
    done = subprocess.run(
        [sys.executable, "-m", "danlu.cli.main", *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr  # the stand-in's own
    facts = json.loads(record.read_text())
    assert facts["argv"][:2] == ["serve", str(made / "model")]
    assert facts["argv"][-3:] == ["-dp", "2", "--debug"]
    assert "--max_queue has no meaning" in done.stderr
    assert "--debug is unknown" in done.stderr
    assert facts["env"]["VLLM_API_KEY"] == "secret-key"
    # What danlu has set for itself stays behind: vLLM loads torch_npu through torch.
    assert not {"DANLU_API_KEY", AUTOLOAD} & facts["env"].keys()
    assert done.stdout.startswith(f"vllm serve {made / 'model'}")
    assert "secret-key" not in done.stdout + done.stderr + " ".join(facts["argv"])
