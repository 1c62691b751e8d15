"""The scheduler: nobody who writes waits, prompts share the budget, everybody gets on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from danlu.engine.request import RequestId
from danlu.engine.scheduler import plan_step


@given(
    pending=st.lists(st.integers(1, 100), max_size=10),
    prompt_tokens=st.integers(1, 60),
    num_requests=st.integers(1, 12),
)
def test_plan(pending: list[int], prompt_tokens: int, num_requests: int) -> None:
    queue = [(RequestId(index), tokens) for index, tokens in enumerate(pending)]
    shares = plan_step(queue, prompt_tokens=prompt_tokens, num_requests=num_requests)
    planned = {share.request_id: share.tokens for share in shares}
    running = queue[:num_requests]
    assert len(planned) == len(shares)
    assert set(planned) <= {request_id for request_id, _tokens in running}
    assert all(0 < planned[request_id] <= pending[request_id] for request_id in planned)
    assert all(planned.get(request_id) == 1 for request_id, tokens in running if tokens == 1)
    prompts = [(request_id, tokens) for request_id, tokens in running if tokens > 1]
    used = sum(planned.get(request_id, 0) for request_id, _tokens in prompts)
    assert used == min(prompt_tokens, sum(tokens for _request_id, tokens in prompts))
    # First come, first served: a prompt gets tokens only when those before it are complete.
    unfinished = [planned.get(request_id, 0) < tokens for request_id, tokens in prompts]
    if True in unfinished:
        later = prompts[unfinished.index(True) + 1 :]
        assert not any(request_id in planned for request_id, _tokens in later)
