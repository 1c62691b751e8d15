"""Settings files as users have them from LLaMA-Factory, one for each kind of command."""

from __future__ import annotations

LOADING = "model_name_or_path: model\ntrust_remote_code: true\nflash_attn: auto\n"
FILES = {
    "train": LOADING
    + """stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity
template: qwen3
cutoff_len: 2048
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
dataloader_num_workers: 4
output_dir: saves
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
""",
    "inference": LOADING
    + """adapter_name_or_path: saves
template: qwen3
infer_backend: huggingface
infer_dtype: float16
vllm_maxlen: 4096
vllm_enforce_eager: true
finetuning_type: lora
""",
    "export": LOADING
    + """adapter_name_or_path: saves
template: qwen3
finetuning_type: lora
export_dir: merged
export_size: 5
export_device: cpu
export_legacy_format: false
""",
    "predict": LOADING
    + """adapter_name_or_path: saves
stage: sft
do_predict: true
finetuning_type: lora
eval_dataset: identity
template: qwen3
cutoff_len: 2048
max_samples: 50
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: predict
overwrite_output_dir: true
per_device_eval_batch_size: 1
predict_with_generate: true
ddp_timeout: 180000000
""",
}
