"""Settings of every command that reads a data set; names and meanings as in LLaMA-Factory."""

from __future__ import annotations

from typing import Literal

from danlu.settings.ranges import PositiveInt, Seed, ShareOrCount
from danlu.settings.schema import Settings, option
from danlu.text.render import Template


class DataSettings(Settings):
    """Which rows are read, and how they become tokens."""

    dataset: str = option(
        "", "data files, folders or names in dataset_info.json, separated by commas"
    )
    dataset_dir: str = option("data", "folder that holds dataset_info.json")
    eval_dataset: str = option("", "data sets to evaluate on, instead of rows held out by val_size")
    max_samples: PositiveInt | None = option(None, "use only the first rows of each data set")
    val_size: ShareOrCount | None = option(
        None,
        "rows held out for evaluation: a fraction or a number; not given: a tenth of 50 rows or "
        "more, at most 100 rows",
    )
    template: Template | None = option(None, "chat format; that of the model if not given")
    enable_thinking: bool | None = option(
        True,
        "true: answers without reasoning learn an empty thought; "
        "false: reasoning is removed; null: decided per answer",
    )
    mask_history: bool = option(False, "learn only the last answer of each row")
    train_on_prompt: bool = option(False, "learn the questions too")
    cutoff_len: PositiveInt = option(2048, "longest example in tokens")
    overlong: Literal["cut", "drop", "error", "llamafactory"] = option(
        "cut",
        "rows over cutoff_len: shorten the reasoning or the middle of the question, leave the row "
        "out, stop, or cut as LLaMA-Factory does (which may cut off the end of the answer)",
    )
    skip_bad_rows: bool = option(False, "leave out rows that cannot be used instead of stopping")
    overwrite_cache: bool = option(False, "tokenize again even where the tokens are kept")
    seed: Seed = option(42, "decides order, held-out rows, dropout and the adapter's start")

    @property
    def chat_format(self) -> Template:
        """The format that rows are rendered in: Qwen3's own where neither user nor model says."""
        return self.template or "qwen3"
