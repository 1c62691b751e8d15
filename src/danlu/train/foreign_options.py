"""Options of LLaMA-Factory and Hugging Face's Trainer that `danlu train` knows and does not have.

Existing command lines and YAML files carry them. What changes no result here is accepted with one
line that says why; what a user would miss is refused with what to use instead. Names and meanings:
LLaMA-Factory's hparams (0.9.5) and transformers' TrainingArguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from danlu.settings.schema import Foreign, foreign


def _all(names: str, option: Foreign) -> Iterator[tuple[str, Foreign]]:
    return ((name, option) for name in names.split())


def _table(*groups: Iterable[tuple[str, Foreign]]) -> dict[str, Foreign]:
    return {name: option for group in groups for name, option in group}


NO_EFFECT = _table(
    _all(
        "packing neat_packing group_by_length length_column_name",
        foreign(note="every step is packed without padding, and rows never see each other"),
    ),
    _all(
        "per_device_eval_batch_size eval_accumulation_steps auto_find_batch_size",
        foreign(note="evaluation is packed like training"),
    ),
    _all(
        "preprocessing_num_workers preprocessing_batch_size dataloader_num_workers "
        "dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers "
        "streaming buffer_size data_shared_file_system",
        foreign(note="rows are read as a stream and tokenized in this process, in seconds"),
    ),
    _all(
        "gradient_checkpointing disable_gradient_checkpointing use_reentrant_gc "
        "gradient_checkpointing_kwargs use_unsloth_gc",
        foreign(
            note="the plan decides what is computed twice; --recompute none or block fixes it"
        ),
    ),
    _all(
        "flash_attn enable_liger_kernel use_liger_kernel use_v1_kernels use_kv_cache "
        "torch_compile tf32 bf16_full_eval fp16_full_eval",
        foreign(note="danlu uses its own operations, the same on every device"),
    ),
    _all(
        "pure_bf16 upcast_layernorm upcast_lmhead_output cast_trainable_params",
        foreign(note="trained weights and norms are computed in float32, the rest in dtype"),
    ),
    _all(
        "ddp_timeout ddp_find_unused_parameters ddp_backend local_rank "
        "average_tokens_across_devices accelerator_config",
        foreign(note="training uses one device"),
    ),
    _all(
        "low_cpu_mem_usage offload_folder save_safetensors jit_mode_eval trust_remote_code "
        "cache_dir model_revision hf_hub_token ms_hub_token om_hub_token use_fast_tokenizer "
        "infer_backend resize_vocab",
        foreign(note="weights and tokenizer are read from the model's folder, without its code"),
    ),
    _all(
        "remove_unused_columns label_names ignore_pad_token_for_loss tool_format "
        "ignore_data_skip data_seed full_determinism",
        foreign(note="rows, their order and what is learned follow from the settings and the seed"),
    ),
    _all(
        "do_eval prediction_loss_only eval_do_concat_batches batch_eval_metrics greater_is_better",
        foreign(note="held-out rows are always evaluated, and a lower loss is better"),
    ),
    _all(
        "include_num_input_tokens_seen include_tokens_per_second logging_strategy "
        "logging_first_step logging_nan_inf_filter skip_memory_metrics print_param_status "
        "disable_tqdm log_level run_name",
        foreign(note="every step is in metrics.jsonl, tokens, speed and memory included"),
    ),
    _all(
        "save_only_model",
        foreign(note="every checkpoint can be resumed from"),
    ),
)  # fmt: skip

REFUSED = _table(
    _all(
        "use_dora pissa_init pissa_iter pissa_convert loraplus_lr_ratio loraplus_lr_embedding "
        "use_badam use_galore use_apollo use_muon use_adam_mini use_llama_pro additional_target "
        "create_new_adapter oft_rank oft_block_size oft_target",
        foreign(instead="use plain LoRA: --lora_rank, --lora_alpha, --lora_target, --use_rslora"),
    ),
    _all(
        "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules",
        foreign(instead="use --finetuning_type lora or full"),
    ),
    _all(
        "quantization_bit quantization_method quantization_type double_quantization "
        "quantization_device_map",
        foreign(instead="leave it out: the base stays as it is; --recompute saves memory"),
    ),
    _all(
        "deepspeed fsdp fsdp_config use_ray ray_run_name",
        foreign(instead="leave it out: training uses one device"),
    ),
    _all(
        "use_unsloth shift_attn mixture_of_depths moe_aux_loss_coef rope_scaling "
        "new_special_tokens add_tokens add_special_tokens default_system",
        foreign(instead="leave it out: Qwen3's dense text models are trained as they are"),
    ),
    _all(
        "do_predict predict_with_generate compute_accuracy",
        foreign(instead="train first, then: danlu eval RUN --dataset NAME"),
    ),
    _all(
        "interleave_probs eval_on_each_dataset",
        foreign(instead="leave it out: data sets are joined in order and shuffled every epoch"),
    ),
    _all("use_cpu no_cuda use_mps_device", foreign(instead="--device cpu")),
    _all("mix_strategy", foreign(instead="use concat, the default", off=("concat",))),
    _all("tokenized_path", foreign(instead="leave it out: tokens are cached by themselves")),
    _all(
        "neftune_noise_alpha label_smoothing_factor use_dft_loss use_asft_loss use_eaft_loss",
        foreign(instead="leave it out: the loss is the plain one, over the learned tokens"),
    ),
    _all(
        "optim",
        foreign(
            instead="leave it out: AdamW with float32 state is used",
            off=("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_torch_npu_fused"),
        ),
    ),
    _all(
        "push_to_hub hub_model_id use_swanlab",
        foreign(instead="leave it out; TensorBoard: --report_to tensorboard"),
    ),
    _all(
        "pref_beta pref_ftx pref_loss kto_chosen_weight ref_model reward_model ppo_epochs",
        foreign(instead="use --stage sft: danlu trains by examples only"),
    ),
)  # fmt: skip

FOREIGN = {**NO_EFFECT, **REFUSED}
