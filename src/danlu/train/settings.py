"""The settings of `danlu train`; names and meanings as in LLaMA-Factory and HF's Trainer."""

from __future__ import annotations

from typing import Literal

from danlu.data.settings import DataSettings
from danlu.settings.schema import option


class TrainSettings(DataSettings):
    """Fine-tune a model on your own data."""

    stage: Literal["sft"] = option("sft", "what is trained: sft, supervised fine-tuning")
    do_train: bool = option(True, "train; accepted for the sake of existing commands")
    model_name_or_path: str = option(
        "starter", "model folder, or starter (built in)", aliases=("model",)
    )
    output_dir: str = option("", "folder for this run")
    overwrite_output_dir: bool = option(False, "move what is in output_dir to a trash folder first")
    resume_from_checkpoint: bool = option(False, "go on from the newest good checkpoint")
    finetuning_type: Literal["lora", "full"] = option("lora", "an adapter, or every weight")
    lora_rank: int = option(8, "rank of the adapter's matrices")
    lora_alpha: float | None = option(None, "scale is alpha / rank; twice the rank if not given")
    lora_dropout: float = option(0.0, "share of the adapter's inputs set to zero")
    lora_target: str = option("all", "projections: all, or some such as q_proj,v_proj,up_proj")
    use_rslora: bool = option(False, "scale by alpha / sqrt(rank) instead")
    per_device_train_batch_size: int = option(2, "rows of a step = this x accumulation steps")
    gradient_accumulation_steps: int = option(8, "rows of a step = batch size x this")
    learning_rate: float = option(1e-4, "peak learning rate")
    lr_scheduler_type: Literal["cosine"] = option("cosine", "shape of the learning rate")
    warmup_steps: int = option(0, "steps until the peak")
    num_train_epochs: float = option(3.0, "passes over the data")
    max_steps: int = option(-1, "stop after this many steps; replaces num_train_epochs")
    weight_decay: float = option(0.0, "AdamW's decay; never applied to norm weights")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this length")
    eval_on_start: bool = option(False, "evaluate before the first step too")
    eval_steps: int = option(0, "evaluate every so many steps; always at the end")
    save_steps: int = option(500, "save a checkpoint every so many steps; always at the end")
    save_total_limit: int | None = option(None, "keep only the newest checkpoints and the best")
    load_best_model_at_end: bool = option(False, "the result is the best evaluated step")
    logging_steps: int = option(10, "without a terminal: print a line every so many steps")
    micro_batch_tokens: int = option(4096, "tokens computed at once; bounds memory, not the result")
    dtype: Literal["auto", "bfloat16", "float32"] = option("auto", "precision of the weights")
    device: Literal["auto", "npu", "cuda", "cpu"] = option("auto", "where to compute")
