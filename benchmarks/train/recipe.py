"""The recipe of every side: the tutorial's, in bf16, on the CPU.

danlu takes LLaMA-Factory's flags, so both get the same ones. Knows no side and no library.
"""

from __future__ import annotations

BATCH_ROWS = 2
ACCUMULATION = 8
ROWS_PER_STEP = BATCH_ROWS * ACCUMULATION
LORA_RANK = 8
LORA_ALPHA = 16
LEARNING_RATE = 5e-5
CUTOFF_LEN = 1024
SEED = 42
# The first step of every side warms up kernels and allocator; it is not measured.
WARMUP_STEPS = 1

# One epoch of exactly the steps wanted: the schedule is the tutorial's, evaluation and checkpoints
# are left out because they are not what is measured.
TRAIN_FLAGS = (
    "--stage", "sft", "--do_train", "true", "--finetuning_type", "lora", "--template", "qwen3",
    "--dataset", "rows", "--cutoff_len", str(CUTOFF_LEN), "--num_train_epochs", "1",
    "--per_device_train_batch_size", str(BATCH_ROWS),
    "--gradient_accumulation_steps", str(ACCUMULATION),
    "--lora_rank", str(LORA_RANK), "--lora_alpha", str(LORA_ALPHA), "--lora_target", "all",
    "--learning_rate", str(LEARNING_RATE), "--lr_scheduler_type", "cosine", "--warmup_steps", "20",
    "--seed", str(SEED), "--bf16", "true", "--save_strategy", "no", "--plot_loss", "false",
    "--logging_steps", "50", "--report_to", "none",
)  # fmt: skip
