"""The engine's thread: every request ends, whatever becomes of the others and of the thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from danlu.engine.engine import Engine
from danlu.engine.request import Output, Request
from danlu.engine.service import EngineService
from danlu.errors import UsageError
from tests.helpers.models.tiny_engine import GREEDY, alone, engine, random_prompt, tokens_of
from tests.helpers.waiting import PATIENCE_S

PROMPTS = [random_prompt(seed) for seed in range(6)]


@pytest.fixture
def service() -> Iterator[EngineService]:
    subject = EngineService(engine(), num_seats=8)
    subject.start()
    yield subject
    subject.stop()


def submit(service: EngineService, request: Request) -> queue.SimpleQueue[Output]:
    outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
    assert service.reserve()
    service.submit(request, outputs.put)
    return outputs


def collect(outputs: queue.SimpleQueue[Output]) -> list[Output]:
    found = [outputs.get(timeout=PATIENCE_S)]
    while found[-1].finish_reason is None:
        found.append(outputs.get(timeout=PATIENCE_S))
    return found


def long_request(prompt: tuple[int, ...]) -> Request:
    return Request(prompt=prompt[:5], sampling=replace(GREEDY, max_tokens=60))


def test_many_callers_get_their_own_answers(service: EngineService) -> None:
    results: dict[int, list[int]] = {}

    def call(index: int) -> None:
        request = Request(prompt=PROMPTS[index], sampling=GREEDY)
        results[index] = tokens_of(collect(submit(service, request)))

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, prompt in enumerate(PROMPTS):
        assert results[index] == tokens_of(alone(Request(prompt=prompt, sampling=GREEDY)))
    assert service.num_seats_taken == 0


def test_seats_are_bounded_and_come_back(service: EngineService) -> None:
    assert service.reserve(8)
    assert not service.reserve()
    service.give_back(8)
    assert service.reserve(3)
    service.give_back(3)
    collect(submit(service, Request(prompt=PROMPTS[0], sampling=GREEDY)))
    assert service.num_seats_taken == 0


def test_a_cancelled_request_ends_even_where_nothing_else_runs(service: EngineService) -> None:
    outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
    assert service.reserve()
    request_id = service.submit(long_request(PROMPTS[0]), outputs.put)
    outputs.get(timeout=PATIENCE_S)
    service.cancel(request_id)
    service.cancel(request_id)
    assert collect(outputs)[-1].finish_reason == "abort"
    assert service.num_seats_taken == 0
    assert service.figures().cache_usage == 0


def test_a_request_that_is_refused_ends_with_its_error(service: EngineService) -> None:
    [output] = collect(submit(service, Request(prompt=())))
    assert isinstance(output.error, UsageError)
    assert service.num_seats_taken == 0
    assert service.is_alive


def test_a_caller_that_is_gone_does_not_end_the_thread(service: EngineService) -> None:
    def gone(output: Output) -> None:
        raise RuntimeError("nobody is there")

    assert service.reserve()
    service.submit(Request(prompt=PROMPTS[0], sampling=GREEDY), gone)
    request = Request(prompt=PROMPTS[1], sampling=GREEDY)
    assert tokens_of(collect(submit(service, request))) == tokens_of(alone(request))


def test_calls_run_on_the_engines_thread(service: EngineService) -> None:
    assert service.call(lambda _engine: threading.current_thread().name).result(20) == "engine"
    with pytest.raises(ZeroDivisionError):
        service.call(lambda _engine: 1 // 0).result(20)
    assert service.is_alive


def test_stopping_lets_the_running_finish_within_the_limit() -> None:
    service = EngineService(engine(), num_seats=8)
    service.start()
    request = Request(prompt=PROMPTS[0], sampling=GREEDY)
    outputs = submit(service, request)
    service.stop(drain_s=20)
    assert tokens_of(collect(outputs)) == tokens_of(alone(request))
    assert not service.is_alive


def test_stopping_aborts_what_is_left_and_refuses_what_comes_later() -> None:
    service = EngineService(engine(), num_seats=8)
    service.start()
    many = [submit(service, long_request(prompt)) for prompt in PROMPTS]
    service.stop()
    assert {collect(outputs)[-1].finish_reason for outputs in many} <= {"abort", "error"}
    [late] = collect(submit(service, Request(prompt=PROMPTS[0], sampling=GREEDY)))
    assert isinstance(late.error, RuntimeError)
    with pytest.raises(RuntimeError):
        service.call(lambda _engine: None).result(20)
    assert service.num_seats_taken == 0


@pytest.mark.parametrize("broken_step", range(4))
def test_a_broken_thread_leaves_nobody_waiting(broken_step: int) -> None:
    class Broken(Engine):
        steps = 0

        def step(self) -> None:
            self.steps += 1
            if self.steps > broken_step:
                raise SystemError("a bug")
            super().step()

    whole = engine()
    whole.__class__ = Broken
    service = EngineService(whole, num_seats=8)
    service.start()
    many = [submit(service, long_request(prompt)) for prompt in PROMPTS]
    endings = [collect(outputs)[-1] for outputs in many]
    assert {output.finish_reason for output in endings} == {"error"}
    assert not service.is_alive
    assert service.num_seats_taken == 0


def test_who_no_longer_waits_for_a_call_does_not_end_the_thread(service: EngineService) -> None:
    """A client that disconnects cancels what its request waits for."""
    begun, release = threading.Event(), threading.Event()

    def hold(_engine: Engine) -> None:
        begun.set()
        assert release.wait(PATIENCE_S)

    async def ask(function: Callable[[Engine], object]) -> None:
        waiting = asyncio.ensure_future(asyncio.wrap_future(service.call(function)))
        await asyncio.to_thread(begun.wait, 20)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(ask(hold))
    waiting = service.call(lambda _engine: 5)  # not begun yet
    waiting.cancel()
    asyncio.run(ask(lambda engine: engine.figures()))
    release.set()
    assert service.call(lambda _engine: 7).result(20) == 7
    assert service.is_alive
