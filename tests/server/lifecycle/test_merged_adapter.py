"""--merge_adapter: the adapter is in the weights that are served, and in no file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.device.detect import select
from danlu.dialog.assistant import model_line
from danlu.engine.request import Output, Request, SamplingSettings
from danlu.errors import UsageError
from danlu.export.merge import Ingredient, merge
from danlu.hub.adapters import attach_adapter, find_adapter, load_merged
from danlu.hub.load import LoadedModel, load_model
from danlu.server.lifecycle.opening import name_of, open_serving
from danlu.server.lifecycle.vllm_words import refuse_or_name
from danlu.server.served_adapters import AdapterFolders
from danlu.server.settings import ServeSettings
from tests.export.test_merge import write_random_adapter
from tests.helpers.models.model_folder import write_model_folder

CPU = select("cpu")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model_folder(tmp_path / "base", dtype=torch.bfloat16)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return write_random_adapter(tmp_path / "fox", base)


def settings(base: Path, *adapters: object, **others: object) -> ServeSettings:
    words = tuple(str(each) for each in adapters)
    return ServeSettings(
        model_name_or_path=str(base), adapter=words, merge_adapter=True, device="cpu", **others
    )


def folders(of: ServeSettings) -> AdapterFolders:
    return AdapterFolders.of(of.adapter, of.adapter_dir, of.served_model_name)


def tensors(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return dict(loaded.model.hf_tensors())


def test_the_weights_are_those_that_a_merge_writes(
    tmp_path: Path, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Packed for a processor they could not be read.
    monkeypatch.setattr("danlu.hub.adapters.packed", lambda loaded, _progress: loaded)
    source = find_adapter(str(adapter))
    merge(str(base), [Ingredient(source=source, weight=1.0)], tmp_path / "merged", device=CPU)
    written = tensors(load_model(str(tmp_path / "merged"), device=CPU, dtype=torch.bfloat16))
    plain = tensors(load_model(str(base), device=CPU, dtype=torch.bfloat16))
    found = load_merged(source, str(base), device=CPU, dtype=torch.bfloat16)
    assert found.merged_adapter == source.folder
    changed = 0
    for name, tensor in tensors(found).items():
        assert torch.equal(tensor, written[name]), name
        changed += not torch.equal(tensor, plain[name])
    assert changed == 7 * found.config.num_hidden_layers


def test_what_is_served_is_the_adapter_under_its_name(base: Path, adapter: Path) -> None:
    asked = settings(base, f"reynard={adapter}", dtype="float32")
    serving = open_serving(asked, folders(asked))
    try:
        assert (serving.name, serving.adapters) == ("reynard", {})
        loaded = serving.assistant.loaded
        assert f"adapter {adapter.resolve()} merged into it" in model_line(loaded)
        plain = load_model(str(base), device=CPU, dtype=torch.float32)
        beside, _proven = attach_adapter(find_adapter(str(adapter)), plain)
        request = Request(
            prompt=(5, 6, 7),
            sampling=SamplingSettings(temperature=0.0, max_tokens=12, ignore_eos=True),
        )
        engine = serving.assistant.engine
        expected = type(engine)(plain.model, plain.tokenizer)
        answers = []
        for each, own in ((engine, None), (expected, beside)):
            outputs: list[Output] = []
            each.add(
                Request(prompt=request.prompt, sampling=request.sampling, adapter=own),
                outputs.append,
            )
            while each.num_unfinished:
                each.step()
            answers.append([token for output in outputs for token in output.tokens])
        assert answers[0] == answers[1]
    finally:
        serving.service.stop()


def test_no_other_adapter_may_come_later(base: Path, adapter: Path) -> None:
    found = load_merged(find_adapter(str(adapter)), str(base), device=CPU, dtype=None)
    with pytest.raises(UsageError, match="the weights hold"):
        attach_adapter(find_adapter(str(adapter)), found)


@pytest.mark.parametrize("adapters", [0, 2])
def test_it_takes_one_adapter(base: Path, adapter: Path, adapters: int) -> None:
    asked = settings(base, *(f"n{number}={adapter}" for number in range(adapters)))
    with pytest.raises(UsageError, match="single adapter"):
        name_of(asked, folders(asked))


def test_no_folder_of_further_adapters(base: Path, adapter: Path) -> None:
    asked = settings(base, adapter, adapter_dir=str(adapter.parent))
    with pytest.raises(UsageError, match="none may be added later"):
        name_of(asked, folders(asked))


def test_weights_in_fewer_bits_are_refused_with_what_merges_first(
    base: Path, adapter: Path
) -> None:
    asked = settings(base, f"fox={adapter}", quantization="int8")
    with pytest.raises(UsageError) as refusal:
        name_of(asked, folders(asked))
    assert refusal.value.fix == f"danlu merge --adapter {adapter} --export_dir fox-merged"


def test_vllm_merges_nothing(base: Path, adapter: Path) -> None:
    with pytest.raises(UsageError, match="--merge_adapter has no meaning"):
        refuse_or_name(settings(base, adapter))
