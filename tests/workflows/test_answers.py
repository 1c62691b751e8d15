"""Many answers in one batch: the same as alone, in order, bounded in number and time."""

from __future__ import annotations

import pytest

from danlu.dialog.assistant import Assistant, open_assistant
from danlu.dialog.settings import ModelSettings
from danlu.engine.request import SamplingSettings
from danlu.text.conversation import Conversation, Message
from danlu.workflows.answers import WIDTH, Answer, Asked, answers
from tests.helpers.models.model_folder import write_model_folder

SAMPLING = SamplingSettings(temperature=0.0, max_tokens=8)


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    model = write_model_folder(tmp_path_factory.mktemp("model") / "tiny")
    return open_assistant(ModelSettings(model_name_or_path=str(model), device="cpu"))


def asked(count: int) -> list[Asked]:
    return [
        Asked(conversation=Conversation(messages=(Message(role="user", content="fox " * (n + 1)),)))
        for n in range(count)
    ]


def engine_load(assistant: Assistant) -> int:
    return assistant.dialog._engine.num_unfinished


def test_in_order_and_as_if_alone(assistant: Assistant) -> None:
    questions = asked(WIDTH + 5)
    together = list(answers(assistant, questions, SAMPLING))
    alone = [next(answers(assistant, [question], SAMPLING)) for question in questions]
    assert together == alone
    assert len({answer.raw for answer in together}) > 1
    assert all(answer.is_finished for answer in together)


def test_never_more_than_a_batch_at_once(assistant: Assistant) -> None:
    loads = [engine_load(assistant) for _ in answers(assistant, asked(WIDTH + 5), SAMPLING)]
    assert 0 < max(loads) <= WIDTH


def test_a_deadline_keeps_what_has_come(assistant: Assistant) -> None:
    times = iter(range(1000))
    came = list(
        answers(
            assistant, asked(WIDTH + 3), SAMPLING, deadline=3 * WIDTH, clock=lambda: next(times)
        )
    )
    assert [answer.ended for answer in came] == ["time"] * (WIDTH + 3)
    assert all(answer.raw for answer in came[:WIDTH])
    # Those that were never begun say nothing.
    assert came[WIDTH:] == [Answer(ended="time")] * 3
    assert engine_load(assistant) == 0


def test_leaving_early_aborts_what_runs(assistant: Assistant) -> None:
    stream = answers(assistant, asked(4), SAMPLING)
    next(stream)
    stream.close()
    assert engine_load(assistant) == 0


def test_one_that_does_not_fit_is_refused_alone(assistant: Assistant) -> None:
    too_long = Conversation(messages=(Message(role="user", content="fox " * 5000),))
    first, refused, last = answers(
        assistant, [*asked(1), Asked(conversation=too_long), *asked(1)], SAMPLING
    )
    assert first == last
    assert first.is_finished
    assert (refused.raw, refused.ended) == ("", "refused")
    assert "context" in refused.problem
