"""Every command in Chinese, in a terminal of 80 columns: no English sentence, no line too long."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import pytest

from danlu.cli.main import COMMANDS, main
from danlu.language import columns
from tests.helpers.chinese import CHINESE, faults
from tests.helpers.program import free_port
from tests.helpers.terminal import Terminal

# One process for all commands: loading torch once is most of what they cost.
PROGRAM = r"""
import json, os, signal, sys, threading, time, urllib.request
from pathlib import Path
from danlu.cli.main import main
words, port = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]

def stop_the_server():
    for _ in range(600):
        time.sleep(0.1)
        try:
            if urllib.request.urlopen(f"http://127.0.0.1:{port}/ready").status == 200:
                break
        except OSError:
            pass
    os.kill(os.getpid(), signal.SIGINT)

for command in words:
    print(f"\n@@ {json.dumps(command, ensure_ascii=True)}", flush=True)
    if command[:1] == ["serve"] and port in command:
        threading.Thread(target=stop_the_server, daemon=True).start()
    code = main(command)
    print(f"\n@= {code}", flush=True)
"""

HELP = [
    "--help",
    *(f"{name} --help" for name in COMMANDS),
    "data check --help",
    "data preview --help",
]
# Each with its exit code. RUN, ROWS and so on are files that the test writes.
GOOD = """
info
info starter
doctor
models
use
use starter
data check rows.jsonl
data preview rows.jsonl --rows 1
plan --dataset rows.jsonl
train --dataset rows.jsonl --output_dir run --max_steps 2 --report false --device cpu
train --dataset rows.jsonl --output_dir run --max_steps 2 --overwrite_output_dir --report false
runs
info run
runs show run
runs trash
runs trash --empty
eval run --report_seconds 1
eval --model starter --dataset few.jsonl --max_new_tokens 4 --output_dir scores
chat --prompt 你好 --max_new_tokens 4 --plain
generate 你好 --max_new_tokens 4
merge --adapter run --export_dir merged
export merged --export_dir gguf --format ollama
serve starter --port {port}
train --dataset rows.jsonl --output_dir other --print_settings
"""
BAD = """
nothing
runs fly
runs show nothing
runs stop run
data fly
data check nothing
data check broken.json
data check broken.jsonl
data check broken.csv
data check gbk.jsonl
data check empty.jsonl
info nothing
info torn
chat nothing
chat --url http://127.0.0.1:1
chat --url http://no.such.host.invalid:1
chat --adapter nothing
generate 你好 --temperature hot
generate 你好 --temperature -1
generate 你好 --temperature nan
train
train nothing.yaml
train broken.yaml
train tabs.yaml
train alias.yaml
train quote.yaml
train twice.yaml
train list.yaml
train --lora_rank a
train --lora_rank 1.5
train --bf16 maybe
train --finetuning_type qlora
train --val_size 2.5
train --nope 3
train --lora_rank
train 多余
train --dataset rows.jsonl --output_dir run
train --dataset rows.jsonl --output_dir rows.jsonl
train --dataset rows.jsonl --output_dir x --lr_scheduler_kwargs {bad
train --dataset rows.jsonl --output_dir x --lr_scheduler_kwargs {"power":"x"}
train --dataset rows.jsonl --output_dir /proc/x
train --dataset rows.jsonl --output_dir x --model torn
plan --dataset rows.jsonl --device abacus
merge
merge --adapter nothing --export_dir x
merge --adapter run --export_dir merged
export starter
export nothing --export_dir x
eval
eval nothing
eval run --dataset nothing
serve --port 99999
serve --host 0.0.0.0
serve --adapter x=nothing
serve --api_key_file nothing
pull nothing
pull Qwen3-0.6B
use nothing
rm nothing
"""
FILES = {
    "broken.json": '[{"instruction": "a", "output": }]',
    "broken.jsonl": '{"instruction": "一", "output": "二"}\n{"instruction": "三"\nabc\n',
    "broken.csv": 'instruction,output\n"a,b\n',
    "empty.jsonl": "",
    "broken.yaml": "model: starter\nlora_rank: 8: 9\n",
    "tabs.yaml": "model:\n\tstarter\n",
    "alias.yaml": "model: *starter\n",
    "quote.yaml": 'model: "starter\n',
    "twice.yaml": "model: starter\nmodel: starter\n",
    "list.yaml": "- a\n",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rows = [
        {"instruction": f"第 {n} 只狐狸叫什么？", "output": f"它叫 {n * 7}。"} for n in range(60)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "few.jsonl").write_text("".join(lines[:2]), encoding="utf-8")
    (tmp_path / "gbk.jsonl").write_bytes("".join(lines[:4]).encode("gbk"))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{"model_type": "qwen3", "hidden_size": ')
    return tmp_path


def test_every_command_speaks_chinese_in_80_columns(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    commands = [
        (line.format(port=port) if "{port}" in line else line).split()
        for line in [*HELP, *GOOD.strip().splitlines(), *BAD.strip().splitlines()]
    ]
    (place / "words.json").write_text(json.dumps(commands))
    monkeypatch.chdir(place)
    terminal = Terminal(
        [str(place / "words.json"), port], program=PROGRAM, seen=300, lines=50,
        DANLU_LANG="zh", DANLU_HOME=str(place / "home"), HF_ENDPOINT="http://127.0.0.1:9",
        MODELSCOPE_ENDPOINT="http://127.0.0.1:9",
    )  # fmt: skip
    with closing(terminal):
        assert terminal.exit_code(patience_s=600) == 0
        text = terminal.text
    found = faults_on(text, commands)
    assert not found, "\n".join(found)


def faults_on(text: str, commands: list[list[str]]) -> list[str]:
    """List what is wrong on the screen of all commands."""
    parts = re.split(r"^@@ (.*)$", text, flags=re.MULTILINE)[1:]
    assert parts[::2] == [json.dumps(words) for words in commands]
    found = []
    num_good = len(commands) - len(BAD.strip().splitlines())
    for number, (command, output) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        body, _mark, code = output.rpartition("@= ")
        if (code.strip() == "0") != (number < num_good):
            found.append(f"{command}: exit code {code.strip()}\n{body}")
        if not CHINESE.search(body):
            found.append(f"{command}: nothing in Chinese\n{body}")
        found += [
            f"{command}: {fault}: {line}" for line in body.splitlines() for fault in faults(line)
        ]
    return found


def test_help_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Narrow and wide, the same words stand there; a long list of choices may end at a bar."""
    for name in ["", *COMMANDS]:
        texts = []
        for width in ("80", "100"):
            monkeypatch.setenv("COLUMNS", width)
            assert main([name, "--help"] if name else ["--help"]) == 0
            text = capsys.readouterr().out
            assert all(columns(line) <= int(width) for line in text.splitlines())
            texts.append(re.sub(r"\|\s+", "|", text).split())
        assert texts[0] == texts[1], name
