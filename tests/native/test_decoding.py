"""Decoding with the C++ kernels: the cache, looking up, recorded steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from danlu import ops
from danlu.device.detect import select
from danlu.device.variants import NATIVE
from danlu.engine.engine import Engine
from danlu.engine.request import Request
from danlu.hub.load import load_for_answers
from danlu.ops.cache.graph import GRAPH
from danlu.ops.cache.key_value_store import Twin
from danlu.ops.cache.paged_store import step_of, tables_of
from danlu.ops.choice import NotHere
from danlu.ops.native import native_largest
from danlu.ops.native.native_cache import NativeCache
from danlu.ops.native.native_linear import NativeMatrix, look_up
from danlu.ops.native.native_program import ProgramRecorder
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.native import needs_library
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

pytestmark = needs_library
CPU = torch.device("cpu")


def numbers(*size: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(size, generator=generator) * scale).bfloat16()


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (6, 2), (8, 1)], ids=str)
@pytest.mark.parametrize("size", [16, 48, 128, 144])
def test_requests_attend_to_their_own_tokens(heads: tuple[int, int], size: int) -> None:
    """Lengths that end in the middle of a block, in a vector's, at its end; blocks out of order."""
    lengths = [1, 15, 16, 17, 100, 257]
    tables = tables_of([length + 1 for length in lengths], NativeCache.block_tokens)
    found = []
    for kind, dtype in ((NativeCache, torch.bfloat16), (Twin, torch.float32)):
        cache = kind(2, heads[1], sum(map(len, tables)), size, device=CPU, dtype=dtype)
        cache._store.fill_(torch.nan)  # what was left by others is not read
        for starts, ends in (([0] * 6, lengths), (lengths, [n + 1 for n in lengths])):
            step = step_of(tables, starts, ends, kind.block_tokens, CPU)
            merged = numbers(sum(step.counts), heads[0] + 2 * heads[1], size, seed=ends[0]).to(
                dtype
            )
            q, k, v = merged.split([heads[0], heads[1], heads[1]], dim=1)
            cache.append(1, step, k, v)
            out = cache.attend(1, step, q)
        found.append(out.float())
    assert (found[0] - found[1]).abs().max() <= 0.01 * found[1].abs().max()


@pytest.mark.parametrize("scale", [0.0, 30.0])
def test_weights_that_are_all_alike_and_one_that_is_all(scale: float) -> None:
    tables = tables_of([40], 16)
    found = []
    for kind, dtype in ((NativeCache, torch.bfloat16), (Twin, torch.float32)):
        cache = kind(1, 1, 3, 64, device=CPU, dtype=dtype)
        for start, end in ((0, 39), (39, 40)):
            step = step_of(tables, [start], [end], 16, CPU)
            q, k, v = (
                numbers(end - start, heads, 64, seed=seed, scale=scale if seed < 2 else 1).to(dtype)
                for seed, heads in enumerate((2, 1, 1))
            )
            cache.append(0, step, k, v)
            out = cache.attend(0, step, q)
        found.append(out.float())
    assert found[0].isfinite().all()
    assert (found[0] - found[1]).abs().max() <= 0.02 * found[1].abs().max()


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 100])
def test_rows_are_looked_up_in_a_plain_and_in_a_packed_matrix(rows: int) -> None:
    table = numbers(rows, 34)
    ids = torch.tensor([0, rows - 1, rows // 2, 0], dtype=torch.int32)
    for stored in (table, NativeMatrix(table), table.t().contiguous().t()):
        assert torch.equal(look_up(stored, ids), table[ids.long()])
    assert torch.equal(look_up(table.float(), ids.long()), table.float()[ids.long()])
    # Losses of a model that is packed for answers are computed without inference mode.
    assert torch.equal(ops.look_up(NativeMatrix(table), ids.long()), table[ids.long()])


def test_what_torch_computes_is_not_recorded() -> None:
    x, weight = numbers(1, 32), NativeMatrix(numbers(32, 32))
    with torch.inference_mode(), pytest.raises(NotHere, match="aten::add"):
        ProgramRecorder()(lambda: weight(x + 1), CPU)
    # And a call behind it is nobody's.
    assert torch.equal(weight(x), weight(x))


def test_a_recording_reads_what_is_there_now() -> None:
    x, weight = numbers(2, 32), NativeMatrix(numbers(32, 32, seed=1))
    with torch.inference_mode():
        replay = ProgramRecorder()(lambda: weight(weight(x)), CPU)
        x.copy_(numbers(2, 32, seed=2))
        assert torch.equal(replay([]), weight(weight(x)))


@pytest.mark.parametrize("width", [64, 65, 130, 5000])
def test_the_largest_of_each_row(width: int) -> None:
    rows = torch.stack(
        [
            torch.randperm(width, generator=torch.Generator().manual_seed(1)) - 20.0,
            torch.arange(width) * 1.0,
            -torch.arange(width) * 1.0,
            torch.zeros(width),
            torch.full((width,), -torch.inf),
        ]
    ).bfloat16()
    values, ids = native_largest.largest(rows, 64)
    wanted = rows.float().topk(64, dim=-1).values
    assert torch.equal(values, wanted)
    assert torch.equal(rows.gather(1, ids.long()).float(), wanted)
    assert all(len(set(row)) == 64 for row in ids.tolist())


@pytest.mark.parametrize("place", [0, 63, 70, 299])
def test_what_is_no_number_comes_first(place: int) -> None:
    rows = numbers(3, 300)
    rows[1, place], rows[2, place] = torch.nan, torch.inf
    values, _ids = native_largest.largest(rows, 64)
    assert values[:, 0].isnan().tolist() == [False, True, False]
    assert values[2, 0] == torch.inf
    assert values[0].isfinite().all()


def test_recorded_steps_say_what_single_operations_say(tmp_path: Path) -> None:
    """Requests that come and go, with adapters and without: steps of several numbers of rows."""
    folder = str(write_model_folder(tmp_path / "model", num_hidden_layers=2))
    loaded = load_for_answers(folder, device=select("cpu"), dtype=torch.bfloat16, quantization=None)
    adapters = [None, random_adapter(1, like=loaded.model), random_adapter(2, like=loaded.model)]
    asked = [
        Request(
            prompt=random_prompt(n, 5 + 20 * n),
            sampling=replace(GREEDY, max_tokens=4 + 3 * n),
            adapter=adapter,
        )
        for n, adapter in enumerate([*adapters, None])
    ]
    found, recorded = [], []
    for variant in (NATIVE, "reference"):
        with taken(GRAPH, variant):
            engine = Engine(loaded.model, tokenizer(), prompt_tokens_per_step=80)
            found.append([tokens_of(outputs) for outputs in run_all(engine, asked)])
            recorded.append(engine._graphs._count())
    assert found[0] == found[1]
    assert recorded[0] >= 2
    assert recorded[1] == 0


def test_steps_of_a_model_that_is_not_packed_are_not_recorded_and_nothing_is_said(
    capfd: pytest.CaptureFixture[str],
) -> None:
    engine = Engine(varied_model().to(torch.bfloat16), tokenizer())
    asked = [Request(prompt=random_prompt(1, 12), sampling=replace(GREEDY, max_tokens=5))]
    assert len(tokens_of(run_all(engine, asked)[0])) == 5
    assert engine._graphs._count() == 0
    assert capfd.readouterr().err == ""


def test_a_request_says_alone_what_it_says_among_others(tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model", num_hidden_layers=2))
    loaded = load_for_answers(folder, device=select("cpu"), dtype=torch.bfloat16, quantization=None)
    asked = [
        Request(prompt=random_prompt(n, 12), sampling=replace(GREEDY, max_tokens=20))
        for n in range(7)
    ]
    engines = [Engine(loaded.model, tokenizer()) for _ in range(2)]
    together = run_all(engines[0], asked)
    alone = [run_all(engines[1], [one])[0] for one in asked]
    assert [tokens_of(outputs) for outputs in together] == [tokens_of(outputs) for outputs in alone]


def test_a_token_is_the_same_beside_a_prompt_that_is_read() -> None:
    tables = tables_of([40, 30, 20, 60], 16)
    cache = NativeCache(1, 2, sum(map(len, tables)), 32, device=CPU, dtype=torch.bfloat16)
    cache._store.copy_(numbers(*cache._store.shape))
    queries = numbers(1 + 30 + 1 + 1, 4, 32)
    mixed = step_of(tables, [39, 0, 19, 59], [40, 30, 20, 60], 16, CPU)
    together = cache.attend(0, mixed, queries)
    for request, row in ((0, 0), (2, 31), (3, 32)):
        end = mixed.ends[request]
        alone = step_of([tables[request]], [end - 1], [end], 16, CPU)
        assert torch.equal(cache.attend(0, alone, queries[row : row + 1])[0], together[row])
