"""Options of LLaMA-Factory and Hugging Face's Trainer that `danlu train` knows and does not have.

Existing command lines and YAML files carry them. What changes no result here is accepted with one
line that says why; what a user would miss is refused with what to use instead. Names and meanings:
LLaMA-Factory's hparams (0.9.5) and transformers' TrainingArguments.
"""

from __future__ import annotations

from danlu.settings.schema import foreign

FOREIGN = {
    **foreign(
        "packing neat_packing group_by_length length_column_name",
        note="every step is packed without padding, and rows never see each other",
    ),
    **foreign(
        "per_device_eval_batch_size eval_accumulation_steps auto_find_batch_size",
        note="evaluation is packed like training",
    ),
    **foreign(
        "preprocessing_num_workers preprocessing_batch_size dataloader_num_workers "
        "dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers streaming "
        "buffer_size data_shared_file_system",
        note="rows are read as a stream and tokenized in this process, in seconds",
    ),
    **foreign(
        "gradient_checkpointing disable_gradient_checkpointing use_reentrant_gc "
        "gradient_checkpointing_kwargs use_unsloth_gc",
        note="the plan decides what is computed twice; --recompute none or block fixes it",
    ),
    **foreign(
        "flash_attn enable_liger_kernel use_liger_kernel use_v1_kernels use_kv_cache "
        "torch_compile tf32 bf16_full_eval fp16_full_eval",
        note="danlu uses its own operations, the same on every device",
    ),
    **foreign(
        "pure_bf16 upcast_layernorm upcast_lmhead_output cast_trainable_params",
        note="trained weights and norms are computed in float32, the rest in dtype",
    ),
    **foreign(
        "ddp_timeout ddp_find_unused_parameters ddp_backend local_rank "
        "average_tokens_across_devices accelerator_config",
        note="training uses one device",
    ),
    **foreign(
        "low_cpu_mem_usage offload_folder save_safetensors jit_mode_eval trust_remote_code "
        "cache_dir model_revision hf_hub_token ms_hub_token om_hub_token use_fast_tokenizer "
        "infer_backend resize_vocab",
        note="weights and tokenizer are read from the model's folder, without its code",
    ),
    **foreign(
        "remove_unused_columns label_names ignore_pad_token_for_loss tool_format ignore_data_skip "
        "data_seed full_determinism",
        note="rows, their order and what is learned follow from the settings and the seed",
    ),
    **foreign(
        "do_eval prediction_loss_only eval_do_concat_batches batch_eval_metrics greater_is_better",
        note="held-out rows are always evaluated, and a lower loss is better",
    ),
    **foreign(
        "include_num_input_tokens_seen include_tokens_per_second logging_strategy "
        "logging_first_step logging_nan_inf_filter skip_memory_metrics print_param_status "
        "disable_tqdm log_level run_name",
        note="every step is in metrics.jsonl, tokens, speed and memory included",
    ),
    **foreign("save_only_model", note="every checkpoint can be resumed from"),
    **foreign(
        "use_dora pissa_init pissa_iter pissa_convert loraplus_lr_ratio loraplus_lr_embedding "
        "use_badam use_galore use_apollo use_muon use_adam_mini use_llama_pro additional_target "
        "create_new_adapter oft_rank oft_block_size oft_target",
        instead="use plain LoRA: --lora_rank, --lora_alpha, --lora_target, --use_rslora",
    ),
    **foreign(
        "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules",
        instead="use --finetuning_type lora or full",
    ),
    **foreign(
        "quantization_bit quantization_method quantization_type double_quantization "
        "quantization_device_map",
        instead="leave it out: the base stays as it is; --recompute saves memory",
    ),
    **foreign(
        "deepspeed fsdp fsdp_config use_ray ray_run_name",
        instead="leave it out: training uses one device",
    ),
    **foreign(
        "use_unsloth shift_attn mixture_of_depths moe_aux_loss_coef rope_scaling "
        "new_special_tokens add_tokens add_special_tokens default_system",
        instead="leave it out: Qwen3's dense text models are trained as they are",
    ),
    **foreign(
        "do_predict predict_with_generate compute_accuracy",
        instead="train first, then: danlu eval RUN --dataset NAME",
    ),
    **foreign(
        "interleave_probs eval_on_each_dataset",
        instead="leave it out: data sets are joined in order and shuffled every epoch",
    ),
    **foreign("use_cpu no_cuda use_mps_device", instead="--device cpu"),
    **foreign("mix_strategy", instead="use concat, the default", off=("concat",)),
    **foreign("tokenized_path", instead="leave it out: tokens are cached by themselves"),
    **foreign(
        "neftune_noise_alpha label_smoothing_factor use_dft_loss use_asft_loss use_eaft_loss",
        instead="leave it out: the loss is the plain one, over the learned tokens",
    ),
    **foreign(
        "optim",
        instead="leave it out: AdamW with float32 state is used",
        off=("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_torch_npu_fused"),
    ),
    **foreign(
        "push_to_hub hub_model_id use_swanlab",
        instead="leave it out; TensorBoard: --report_to tensorboard",
    ),
    **foreign(
        "pref_beta pref_ftx pref_loss kto_chosen_weight ref_model reward_model ppo_epochs",
        instead="use --stage sft: danlu trains by examples only",
    ),
}
