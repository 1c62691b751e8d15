"""The model card says names as they are, and none of them becomes markup."""

from __future__ import annotations

from danlu.runs.card import model_card
from danlu.runs.manifest import BaseRecord, RunManifest


def test_a_name_becomes_no_markup() -> None:
    base = BaseRecord(name="Qwen3-8B", path="/models/Qwen3-8B", fingerprint="0")
    run = RunManifest(state="finished", base=base, template="qwen3", enable_thinking=None)
    card = model_card(run, name='x"><img src=x onerror=alert(1)>\n[a](b) | c')
    [title] = [line for line in card.splitlines() if line.startswith("# ")]
    assert title == '# x"&gt;&lt;img src=x onerror=alert(1)&gt; \\[a\\](b) \\| c'
    assert "A LoRA adapter for Qwen3-8B," in card
