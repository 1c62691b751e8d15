"""Recorded decoding steps: the same tokens as of single operations; what if recording fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from danlu.engine.engine import Engine
from danlu.engine.request import Request, SamplingSettings
from danlu.engine.step_in_flight import StepInFlight
from danlu.engine.step_inputs import StepInputs
from danlu.lora.stack import MOST_STACKED, AdapterStack
from danlu.model.qwen3 import Qwen3
from danlu.ops.cache.graph import GRAPH, recorder_for
from danlu.ops.grouped import GROUPED_LINEAR
from tests.helpers.models.tiny_engine import (
    GREEDY,
    random_adapter,
    random_prompt,
    run_all,
    tokenizer,
    tokens_of,
    varied_model,
)
from tests.helpers.models.variants import taken
from tests.sim.graphs import NotInAGraph, NPUGraph, graph
from tests.sim.record import Record, recording

DRAWN = SamplingSettings(temperature=0.8, top_k=20, top_p=0.95, seed=1, max_tokens=12)


pytestmark = pytest.mark.usefixtures("fused")


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return varied_model(device="npu").to(torch.bfloat16)


def requests(model: Qwen3, sampling: SamplingSettings, adapters: Sequence[int]) -> list[Request]:
    """Answers of different lengths, so that steps have different numbers of rows."""
    made = {n: random_adapter(n, model) if n else None for n in set(adapters)}
    return [
        Request(
            prompt=random_prompt(number, 30 + 60 * number),
            sampling=replace(sampling, max_tokens=4 + 3 * number),
            adapter=made[n],
        )
        for number, n in enumerate(adapters)
    ]


def answers(model: Qwen3, asked: list[Request]) -> tuple[list[list[int]], Record]:
    engine = Engine(model, tokenizer(), prompt_tokens_per_step=100)
    with recording() as record:
        outputs = run_all(engine, asked)
    return [tokens_of(one) for one in outputs], record


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize(
    "adapters", [(0, 0, 0, 0, 0), (1, 1, 1), (0, 1, 2, 0)], ids=["base", "one adapter", "mixed"]
)
def test_tokens_are_those_of_single_operations(
    model: Qwen3, sampling: SamplingSettings, adapters: tuple[int, ...]
) -> None:
    asked = requests(model, sampling, adapters)
    recorded, record = answers(model, asked)
    with taken(GRAPH, "reference", "npu"):
        single, without = answers(model, asked)
    assert recorded == single
    assert record.operations["npu::graph_replay"]
    assert not without.operations["npu::graph_replay"]
    assert max(map(len, recorded)) > 6


def test_later_steps_start_a_recording_and_its_lengths_only(model: Qwen3) -> None:
    engine = Engine(model, tokenizer())
    for number in range(3):
        engine.add(Request(prompt=random_prompt(number), sampling=GREEDY), [].append)
    engine.step()
    engine.step()  # is recorded
    with recording() as record:
        engine.step()
    layers = model.config.num_hidden_layers
    assert record.operations["npu::graph_replay"] == 1
    assert record.operations["npu::graph_update"] == layers
    assert record.operations.total() - layers <= 12, record.operations
    assert (record.waits.total(), record.uploads.total()) == (1, 1)


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_start_comes_before_the_tokens_of_the_last_one_are_read(
    model: Qwen3, sampling: SamplingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    def noted(owner: type, name: str) -> None:
        before = getattr(owner, name)

        def call(*words: object) -> object:
            log.append(name)
            return before(*words)

        monkeypatch.setattr(owner, name, call)

    noted(NPUGraph, "replay")
    noted(StepInFlight, "choices")
    asked = replace(sampling, max_tokens=5)
    run_all(Engine(model, tokenizer()), [Request(prompt=random_prompt(2), sampling=asked)])
    ahead = ["replay", "choices"] * 3
    assert log == ["choices", "replay", *ahead, "choices"]


def test_lengths_are_not_given_to_a_recording_that_still_runs() -> None:
    x, made = torch.ones(3, device="npu"), NPUGraph()
    with graph(made, auto_dispatch_capture=True):
        x.add_(1.0)
    made.update(cpu_update_input=[{}])
    made.replay()
    ended = torch.npu.Event()
    ended.record()
    with pytest.raises(NotInAGraph, match="still runs"):
        made.update(cpu_update_input=[{}])
    ended.synchronize()
    made.update(cpu_update_input=[{}])


def test_where_recording_fails_answers_are_the_same_and_it_is_said_once(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = requests(model, GREEDY, (0, 0, 0))
    expected, _record = answers(model, asked)

    def fail(*_words: object) -> None:
        raise RuntimeError("207008: Stream resources are insufficient")

    monkeypatch.setattr(NPUGraph, "__init__", fail)
    found, record = answers(model, asked)
    assert found == expected
    assert not record.operations["npu::graph_replay"]
    error = capsys.readouterr().err
    assert error.count("Steps are not recorded any more") == 1
    assert "207008: Stream resources are insufficient" in error


def test_where_a_step_cannot_be_started_ahead_answers_are_the_same_and_it_is_said_once(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = requests(model, DRAWN, (0, 0, 0))
    expected, _record = answers(model, asked)

    def fail(*_words: object) -> None:
        raise RuntimeError("507011: the model execute failed")

    monkeypatch.setattr(StepInputs, "_following", fail)
    found, record = answers(model, asked)
    assert found == expected
    assert record.operations["npu::graph_replay"] == 1  # of the step that was to be followed
    assert capsys.readouterr().err.count("Steps are not recorded any more") == 1


def test_any_mix_of_adapters_starts_the_same_recording(model: Qwen3) -> None:
    """An adapter more costs a card's host nothing, nor does it cost another recording."""
    engine, three = Engine(model, tokenizer()), [random_adapter(n, model) for n in range(3)]
    run_all(engine, [Request(prompt=(5, 6), sampling=GREEDY, adapter=one) for one in three])
    recordings = engine._graphs._count()
    for mix in ([0, 1, 2, None], [2, 2, 0], [None, 1]):
        with recording() as record:
            run_all(
                engine,
                [
                    Request(
                        prompt=random_prompt(number),
                        sampling=GREEDY,
                        adapter=None if place is None else three[place],
                    )
                    for number, place in enumerate(mix)
                ],
            )
        assert record.operations["npu::graph_replay"] == GREEDY.max_tokens - 1
    # As many rows as before: none is new but those of two rows.
    assert engine._graphs._count() == recordings + 1


def test_more_adapters_than_stand_side_by_side_answer_too(model: Qwen3) -> None:
    asked = requests(model, GREEDY, range(1, MOST_STACKED + 3))
    found, record = answers(model, asked)
    with taken(GROUPED_LINEAR, "reference", "npu"):
        expected, _record = answers(model, asked)
    assert [len(tokens) for tokens in found] == [len(tokens) for tokens in expected]
    assert [tokens[0] for tokens in found] == [tokens[0] for tokens in expected]
    assert record.operations["npu::npu_grouped_matmul"]  # once fewer of them answer


def test_without_memory_for_all_of_them_they_are_computed_in_turn_and_it_is_said_once(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = requests(model, GREEDY, (1, 2, 0))
    with taken(GROUPED_LINEAR, "reference", "npu"):
        expected, _record = answers(model, asked)

    def full(*_words: object) -> None:
        raise torch.OutOfMemoryError("NPU out of memory")

    monkeypatch.setattr(AdapterStack, "_empty", full)
    found, record = answers(model, asked)
    assert found == expected
    assert not record.operations["npu::npu_grouped_matmul"]
    assert capsys.readouterr().err.count("one after the other") == 1


def test_an_adapter_that_leaves_takes_its_recordings_along(model: Qwen3) -> None:
    engine = Engine(model, tokenizer())
    (request,) = requests(model, GREEDY, (1,))
    run_all(engine, [request])
    assert request.adapter is not None
    assert engine._graphs._count() == 1
    engine.forget(request.adapter)
    assert engine._graphs._count() == 0


def test_in_fp32_nothing_is_recorded() -> None:
    assert recorder_for(torch.float32, torch.device("npu")) is None
    assert recorder_for(torch.bfloat16, torch.device("npu")) is not None


@pytest.mark.parametrize(
    "work",
    [lambda x: x.sum().item(), lambda x: x.cpu(), lambda x: x.nonzero(),
     lambda x: x.copy_(torch.ones(3))],
    ids=["a number", "a copy to the host", "a shape", "an upload"],
)  # fmt: skip
def test_what_needs_the_host_cannot_be_recorded(work: object) -> None:
    there = torch.ones(3, device="npu")
    with pytest.raises(NotInAGraph), graph(NPUGraph()):
        work(there)  # type: ignore[operator]


def test_a_recording_keeps_what_the_host_gave_it() -> None:
    x, made = torch.ones(3, device="npu"), NPUGraph()
    factor = 2.0
    with graph(made):
        y = x * factor
    factor = 5.0
    x.fill_(10.0)
    made.replay()
    assert y.tolist() == [20.0] * 3
