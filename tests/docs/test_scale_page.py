"""docs/scale.md and its Chinese: the figures are the plan's, the commands take their words.

`python -m tests.docs.test_scale_page` writes the tables of figures anew after the plan changed.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.data.tokens.pack import shares
from danlu.device.datasheets import CATALOGUE, GIB, DeviceFacts
from danlu.errors import CapacityError
from danlu.lora.adapter import ALL_TARGETS
from danlu.model.layout import ATTENTION
from danlu.model.sizes import published_config
from danlu.plan.choose import Constraints, Plan
from danlu.plan.job import Job
from danlu.plan.speed import exchange_seconds
from danlu.plan.workload import ExampleShape, Workload
from danlu.train.fit.planning import plan_run
from tests.helpers.source import ROOT

PAGES = {"en": ROOT / "docs" / "scale.md", "zh": ROOT / "docs" / "scale.zh-CN.md"}
MODELS = ("Qwen3-8B", "Qwen3-32B", "Qwen3-30B-A3B", "Qwen3-235B-A22B")
COUNTS = (1, 2, 4, 8, 16)
CARD = "ascend-910b-64g"
ROWS, TOKENS, TARGETS = 16, 900, 850
DOES_NOT_FIT = {"en": "does not fit", "zh": "放不下"}
DIVIDED = {"en": "{0}, divided", "zh": "{0}，分开存放"}
# Adapters on all experts of the largest fit on no number of cards.
ON_ATTENTION = "Qwen3-235B-A22B"
CARDS_WORD = {
    "en": ("cards", *MODELS[:-1], f"{ON_ATTENTION}, attention"),
    "zh": ("卡数", *MODELS[:-1], f"{ON_ATTENTION}，只训练注意力"),
}
SCALING_HEADS = {
    "en": ("cards", "adding up the gradients", "a step", "of perfect scaling"),
    "zh": ("卡数", "梯度求和", "每步", "相对理想扩展"),
}
# Between machines: 200 Gbit/s a card, of which 80 % are counted on.
NETWORK = 0.8 * 25e9


def on_machines_of_eight(count: int) -> DeviceFacts:
    """Describe a card among `count`: beyond eight, the network between machines connects them."""
    device = CATALOGUE[CARD]
    return device if count <= 8 else replace(device, link_bandwidth=NETWORK)


@cache
def planned(model: str, count: int) -> Plan | None:
    """Plan as `danlu train` does; None where the model fits in no way."""
    config = published_config(model)
    assert config is not None
    everything = [ExampleShape(tokens=TOKENS, targets=TARGETS)] * ROWS * count
    mine = shares([example.tokens for example in everything], count)[0]
    workload = Workload(
        steps=[[everything[index] for index in mine]],
        evaluation=[],
        total_steps=1,
        num_evaluations=0,
        num_devices=count,
    )
    targets = ATTENTION if model == ON_ATTENTION else ALL_TARGETS
    job = Job(config=config, number_bytes=2, ranks=dict.fromkeys(targets, 8))
    device = on_machines_of_eight(count)

    def plan(job: Job) -> Plan:
        budget = device.memory_bytes
        return plan_run(job, workload, device, budget_bytes=budget, constraints=Constraints())

    for num_shares in sorted({1, count}):
        with suppress(CapacityError):
            return plan(replace(job, num_shares=num_shares))
    return None


def figures(language: str) -> str:
    """Write the table of memory and time."""
    lines = [CARDS_WORD[language], ("---",) * (1 + len(MODELS))]
    for count in COUNTS:
        cells = []
        for model in MODELS:
            plan = planned(model, count)
            if plan is None:
                cells.append(DOES_NOT_FIT[language])
                continue
            cell = f"{plan.chosen.memory.total / GIB:.1f} GiB, {plan.chosen.step_s:.2f} s"
            cells.append(DIVIDED[language].format(cell) if plan.job.is_shared else cell)
        lines.append((str(count), *cells))
    return written(lines, language)


def scaling(language: str) -> str:
    """Write the table of what adding up the gradients costs on more and more cards."""
    alone = planned("Qwen3-8B", 1)
    assert alone is not None
    lines = [SCALING_HEADS[language], ("---",) * 4]
    for count in (1, 2, 4, 8, 16, 32, 64):
        exchange = exchange_seconds(alone.job, count, on_machines_of_eight(count))
        step = alone.chosen.step_s + exchange
        share = alone.chosen.step_s / step
        lines.append((str(count), f"{1e3 * exchange:.1f} ms", f"{step:.2f} s", f"{share:.1%}"))
    return written(lines, language)


def written(lines: list[tuple[str, ...]], language: str) -> str:
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text.replace(" GiB, ", " GiB，") if language == "zh" else text


TABLES = {"figures": figures, "scaling": scaling}


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("language", PAGES)
def test_the_figures_are_those_of_the_plan(language: str, name: str) -> None:
    begin, end = marks(name)
    page = PAGES[language].read_text(encoding="utf-8")
    assert page.split(begin)[1].split(end)[0] == f"\n{TABLES[name](language)}\n"


@pytest.mark.parametrize("language", PAGES)
def test_every_command_takes_the_words_that_it_is_given(
    language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    page = PAGES[language].read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 2
    for command in commands:
        assert main([*shlex.split(command)[1:], "--print_settings"]) == 0
    assert "num_devices: 8" in capsys.readouterr().out


def test_the_link_and_the_share_of_it_are_those_of_the_page() -> None:
    page = PAGES["en"].read_text(encoding="utf-8")
    assert f"{CATALOGUE[CARD].link_bandwidth / 1e9:.0f} GB/s" in page
    assert f"{NETWORK / 1e9:.0f} GB/s are assumed" in page


def write_figures() -> None:
    """Replace the tables in both pages."""
    os.environ["DANLU_HOME"] = tempfile.mkdtemp()
    for language, path in PAGES.items():
        page = path.read_text(encoding="utf-8")
        for name, table in TABLES.items():
            begin, end = marks(name)
            before, rest = page.split(begin)
            page = f"{before}{begin}\n{table(language)}\n{end}{rest.split(end)[1]}"
        Path(path).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write_figures()
