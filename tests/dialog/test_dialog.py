"""Dialog: a conversation becomes the right request, generated text becomes the right events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from danlu.dialog.dialog import Dialog
from danlu.dialog.events import Call, End, Event, Text, Thought, Usage, assistant_message
from danlu.dialog.settings import ANSWER_TOKENS, AnswerSettings
from danlu.engine.request import Deliver, Output, Request, RequestId, SamplingSettings
from danlu.errors import DataError, UsageError
from danlu.settings.schema import options_of
from danlu.text.conversation import Conversation, Message, ToolCall
from danlu.text.render import render
from tests.helpers.models.tiny_engine import (
    GREEDY,
    alone,
    engine,
    random_adapter,
    text_of,
    tokenizer,
)

HELLO = Conversation(messages=(Message(role="user", content="你好"),))
END = tokenizer().control_id("<|im_end|>")


class ScriptedEngine:
    """Gives out a fixed answer, one character an output."""

    context_tokens = 10_000

    def __init__(self, answer: str, reason: str = "stop") -> None:
        self.answer = answer
        self.reason = reason
        self.requests: list[Request] = []
        self.closed = False

    def add(self, request: Request, deliver: Deliver) -> RequestId:
        self.requests.append(request)
        self.deliver, self.outputs = deliver, self._outputs()
        return RequestId(0)

    def step(self) -> None:
        self.deliver(next(self.outputs))

    def abort(self, request_id: RequestId) -> None:
        self.closed = True

    def _outputs(self) -> Iterator[Output]:
        for character in self.answer:
            yield Output(request_id=RequestId(0), tokens=(1,), text=character)
        yield Output(request_id=RequestId(0), tokens=(END,), finish_reason=self.reason)


def dialog(over: object, *, template: str = "qwen3", thinking: bool | None = True) -> Dialog:
    return Dialog(
        over,  # type: ignore[arg-type]
        tokenizer(),
        template=template,
        enable_thinking=thinking,
        end_token_ids=frozenset({7}),
    )


def joined(events: Sequence[Event]) -> list[Event]:
    """Neighbouring pieces of one kind as one."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Text) and isinstance(last, Text):
            result[-1] = Text(text=last.text + event.text)
        elif isinstance(event, Thought) and isinstance(last, Thought):
            result[-1] = Thought(text=last.text + event.text)
        else:
            result.append(event)
    return result


def test_thought_text_call_usage_and_end_in_order() -> None:
    answer = (
        "<think>\nwhich city?\n</think>\n\nLet me see.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
    )
    scripted = ScriptedEngine(answer)
    events = list(dialog(scripted).answer(HELLO, sampling=GREEDY))
    call = ToolCall(name="weather", arguments={"city": "北京"})
    [request] = scripted.requests
    assert joined(events) == [
        Thought(text="which city?"),
        Text(text="Let me see."),
        Call(call=call),
        Usage(prompt_tokens=len(request.prompt), completion_tokens=len(answer) + 1),
        End(reason="stop"),
    ]
    message = assistant_message(events)
    assert message == Message(
        role="assistant", content="Let me see.", reasoning="which city?", tool_calls=(call,)
    )
    history = Conversation(messages=(*HELLO.messages, message))
    spans = render(history, template="qwen3", enable_thinking=True, add_generation_prompt=False)
    assert "".join(span.text for span in spans).endswith(answer + "<|im_end|>\n")


@pytest.mark.parametrize("thinking", [True, False, None])
@pytest.mark.parametrize("override", [True, False, None])
def test_the_prompt_is_the_rendered_conversation(
    thinking: bool | None, override: bool | None
) -> None:
    scripted = ScriptedEngine("Hi")
    subject = dialog(scripted, thinking=thinking)
    list(subject.answer(HELLO, sampling=GREEDY, enable_thinking=override))
    mode = thinking if override is None else override
    spans = render(HELLO, template="qwen3", enable_thinking=mode)
    [request] = scripted.requests
    assert list(request.prompt) == tokenizer().encode_spans(spans)
    assert request.end_token_ids == {7, END}


def test_an_answer_cut_inside_a_thought_stays_a_thought() -> None:
    events = list(dialog(ScriptedEngine("<think>\nhm", "length")).answer(HELLO, sampling=GREEDY))
    assert joined(events)[0] == Thought(text="hm")
    assert events[-1] == End(reason="length")
    assert assistant_message(events).content == ""


def test_a_thought_opened_by_the_prompt_is_a_thought() -> None:
    started = Message(role="user", content="Think first.\n<think>")
    scripted = ScriptedEngine("6*7=42</think>42")
    events = list(dialog(scripted).answer(HELLO, sampling=GREEDY))
    assert joined(events)[0] == Text(text="6*7=42</think>42")
    # Only the last turn of the prompt counts, whatever the user wrote.
    conversation = Conversation(messages=(started,))
    events = list(dialog(ScriptedEngine("Yes")).answer(conversation, sampling=GREEDY))
    assert joined(events)[0] == Text(text="Yes")


def test_closing_the_answer_closes_the_request() -> None:
    scripted = ScriptedEngine("a long answer")
    events = dialog(scripted).answer(HELLO, sampling=GREEDY)
    assert next(events) == Text(text="a")
    events.close()
    assert scripted.closed


def test_over_the_real_engine() -> None:
    subject = engine()
    sampling = SamplingSettings(temperature=1.0, seed=1, max_tokens=20)
    answers = [
        list(dialog(subject, thinking=False).answer(HELLO, sampling=sampling)) for _run in range(2)
    ]
    assert answers[0][:-2] == answers[1][:-2]
    assert isinstance(answers[0][-1], End)
    usages = [answer[-2] for answer in answers]
    assert all(isinstance(usage, Usage) and usage.completion_tokens <= 20 for usage in usages)
    assert [usage.cached_tokens for usage in usages] == [0, 16]
    events = dialog(subject).answer(HELLO, sampling=sampling)
    next(events)
    assert subject.num_unfinished == 1
    events.close()
    assert subject.num_unfinished == 0


def test_answers_of_one_engine_do_not_lose_each_others_outputs() -> None:
    questions = [
        Conversation(messages=(Message(role="user", content=text),)) for text in ("一", "二二", "3")
    ]
    expected = [list(dialog(engine()).write(asked, sampling=GREEDY)) for asked in questions]
    subject = dialog(own := engine())
    other = Request(prompt=(5, 6, 7), sampling=GREEDY)
    stepped: list[Output] = []
    own.add(other, stepped.append)
    first, second, third = (subject.write(asked, sampling=GREEDY) for asked in questions)
    start = [next(second), next(first)]
    assert [start[1], *first] == expected[0]
    assert [start[0], *second] == expected[1]
    assert list(third) == expected[2]
    assert text_of(stepped) == text_of(alone(other))
    assert own.num_unfinished == 0


def test_closing_an_answer_aborts_its_request_and_nothing_comes_later() -> None:
    subject = engine()
    events = dialog(subject).write(HELLO, sampling=GREEDY)
    next(events)
    events.close()
    assert subject.num_unfinished == 0
    subject.step()
    assert list(events) == []


def test_a_request_that_fails_raises_its_error() -> None:
    broken = random_adapter(1)
    next(iter(broken.additions.values())).a.data.fill_(float("nan"))
    with pytest.raises(DataError):
        list(dialog(engine()).answer(HELLO, sampling=GREEDY, adapter=broken))


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(UsageError):
        next(dialog(engine(), template="llama3").answer(HELLO, sampling=GREEDY))


@pytest.mark.parametrize(
    ("context", "asked", "bound"),
    [(10_000, None, ANSWER_TOKENS), (10_000, 9000, 9000), (1000, None, None)],
)
def test_an_answer_that_nobody_bounded_ends(
    context: int, asked: int | None, bound: int | None
) -> None:
    scripted = ScriptedEngine("never-ending")
    scripted.context_tokens = context
    list(dialog(scripted).answer(HELLO, sampling=SamplingSettings(max_tokens=asked)))
    (request,) = scripted.requests
    assert request.sampling.max_tokens == bound


def test_the_help_names_the_bound() -> None:
    assert f" {ANSWER_TOKENS}," in options_of(AnswerSettings)["max_new_tokens"].help
