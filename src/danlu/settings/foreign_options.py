"""Options of LLaMA-Factory and Hugging Face's Trainer that danlu's commands know and do not have.

Existing command lines and YAML files carry them. What changes no result here is accepted with one
line that says why; what a user would miss is refused with what to use instead. Names and meanings:
LLaMA-Factory's hparams (0.9.5) and transformers' TrainingArguments.

One table: each entry says for which commands it is. It goes from what holds for many to what holds
for few: a later entry overrides an earlier one, and an option that a command has itself overrides
both. A file written for one command may be given to any other, so all know what only training uses.
"""

from __future__ import annotations

from collections.abc import Mapping

from danlu.settings.schema import Foreign, foreign

# The commands, by what they do.
_TRAIN = ("train", "plan")
_READ = (*_TRAIN, "data")
_ANSWER = ("chat", "generate")
_OPEN = (*_ANSWER, "serve", "eval")
_WRITE = ("merge", "export")
_NO_TRAINING = (*_OPEN, *_WRITE, "data")
_EVERY = (*_TRAIN, *_NO_TRAINING)
_NO_ANSWERS = (*_WRITE, "data")
_NO_EXPORT = (*_TRAIN, *_OPEN, "data")

_ENGINES = (
    "infer_backend vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config "
    "sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend use_kt "
    "kt_optimize_rule cpu_infer chunk_size kt_maxlen kt_use_cuda_graph kt_mode kt_force_think"
)
_ONLY_TRAINING = foreign(
    "stage finetuning_type do_train dataset dataset_dir eval_dataset cutoff_len max_samples "
    "val_size overwrite_cache train_on_prompt mask_history output_dir overwrite_output_dir "
    "resume_from_checkpoint lora_rank lora_alpha lora_dropout lora_target use_rslora "
    "moe_aux_loss_coef "
    "per_device_train_batch_size gradient_accumulation_steps learning_rate lr_scheduler_type "
    "lr_scheduler_kwargs warmup_steps warmup_ratio num_train_epochs max_steps weight_decay "
    "adam_beta1 adam_beta2 adam_epsilon max_grad_norm eval_on_start eval_strategy "
    "evaluation_strategy eval_steps save_strategy save_steps save_total_limit "
    "load_best_model_at_end metric_for_best_model early_stopping_steps early_stopping_patience "
    "logging_steps plot_loss report_to logging_dir fp16 bf16 fp8 quantization_bit "
    "quantization_method quantization_type double_quantization quantization_device_map",
    note="only training uses it",
)

_TABLE: Mapping[tuple[str, ...], Mapping[str, Foreign]] = {
    _NO_TRAINING: _ONLY_TRAINING,
    _NO_EXPORT: foreign(
        "export_dir export_size export_device export_quantization_bit export_quantization_dataset "
        "export_quantization_nsamples export_quantization_maxlen export_legacy_format "
        "export_hub_model_id",
        note="only danlu merge uses it",
    ),
    (*_TRAIN, *_NO_ANSWERS): foreign(_ENGINES, note="no answers are written here"),
    _NO_ANSWERS: {
        **foreign(
            "do_sample temperature top_p top_k num_beams max_length max_new_tokens "
            "repetition_penalty length_penalty skip_special_tokens",
            note="it is told to what answers: danlu chat, danlu serve",
            off=("true",),
        ),
    },
    _EVERY: {
        **foreign(
            "low_cpu_mem_usage offload_folder jit_mode_eval trust_remote_code cache_dir "
            "model_revision hf_hub_token ms_hub_token om_hub_token use_fast_tokenizer "
            "resize_vocab use_cache tokenizer_name init_special_tokens",
            note="weights and tokenizer are read from the model's folder, without its code",
        ),
        **foreign(
            "split_special_tokens",
            note="texts are always read as plain text; only the chat format writes special tokens",
        ),
        **foreign(
            "flash_attn enable_liger_kernel use_liger_kernel liger_kernel_config use_v1_kernels "
            "use_kv_cache torch_compile torch_compile_backend torch_compile_mode torchdynamo tf32 "
            "bf16_full_eval fp16_full_eval use_ipex half_precision_backend fp16_backend "
            "fp16_opt_level torch_empty_cache_steps",
            note="danlu uses its own operations, the same on every device",
        ),
        **foreign(
            "image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches "
            "video_max_pixels video_min_pixels video_fps video_maxlen use_audio_in_video "
            "audio_sampling_rate media_dir freeze_vision_tower freeze_multi_modal_projector "
            "freeze_language_model",
            note="Qwen3 reads text only",
        ),
        **foreign("print_param_status", note="danlu info shows what a model holds"),
        **foreign(
            "rope_scaling shift_attn mixture_of_depths use_unsloth "
            "train_from_scratch add_tokens add_special_tokens new_special_tokens "
            "new_special_tokens_config",
            instead="leave it out: Qwen3's text models are used as they are",
        ),
    },
    _READ: {
        **foreign(
            "packing neat_packing group_by_length length_column_name",
            note="every step is packed without padding, and rows never see each other",
        ),
        **foreign(
            "per_device_eval_batch_size per_gpu_eval_batch_size eval_accumulation_steps "
            "auto_find_batch_size",
            note="evaluation is packed like training",
        ),
        **foreign("per_gpu_train_batch_size", instead="--per_device_train_batch_size"),
        **foreign(
            "preprocessing_num_workers preprocessing_batch_size dataloader_num_workers "
            "dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers "
            "dataloader_in_order dataloader_multiprocessing_context streaming buffer_size "
            "data_shared_file_system",
            note="rows are read as a stream and tokenized in this process, in seconds",
        ),
        **foreign(
            "remove_unused_columns label_names ignore_pad_token_for_loss tool_format "
            "ignore_data_skip data_seed full_determinism past_index",
            note="rows, their order and what is learned follow from the settings and the seed",
        ),
        **foreign(
            "dataloader_drop_last", instead="leave it out: every row is learned once in every epoch"
        ),
        **foreign(
            "disable_shuffling sortish_sampler train_sampling_strategy",
            instead="leave it out: rows are shuffled every epoch, by the seed",
            off=("random",),
        ),
        **foreign(
            "preserve_thinking",
            instead="leave it out: each answer is learned after the history that it will have in "
            "use",
        ),
        **foreign(
            "interleave_probs eval_on_each_dataset",
            instead="leave it out: data sets are joined in order and shuffled every epoch",
        ),
        **foreign("mix_strategy", instead="use concat, the default", off=("concat",)),
        **foreign("tokenized_path", instead="leave it out: tokens are cached by themselves"),
        **foreign("default_system", instead="leave it out, and give the rows a system prompt"),
    },
    _TRAIN: {
        **foreign(
            "upcast_layernorm upcast_lmhead_output pure_bf16 cast_trainable_params",
            note="trained weights and norms are computed in float32, the rest in dtype",
        ),
        **foreign(
            "ddp_timeout ddp_find_unused_parameters ddp_backend ddp_bucket_cap_mb "
            "ddp_broadcast_buffers ddp_static_graph local_rank average_tokens_across_devices "
            "accelerator_config log_on_each_node save_on_each_node log_level_replica ray_scope "
            "ray_num_workers ray_run_name ray_storage_path ray_storage_filesystem ray_init_kwargs "
            "resources_per_worker placement_strategy tpu_num_cores tpu_metrics_debug mp_parameters "
            "fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap",
            note="processes and what they exchange are started by --num_devices or by torchrun",
        ),
        **foreign(
            "deepspeed fsdp fsdp_config",
            instead="--num_devices: a base that does not fit on one device is divided among them",
        ),
        **foreign(
            "use_ray use_mca cp_size parallelism_config",
            instead="leave it out: devices share a step's rows, with --num_devices or torchrun",
            off=("1",),
        ),
        **foreign("use_cpu no_cuda use_mps_device", instead="--device cpu"),
        **foreign(
            "fp8_backend fp8_enable_fsdp_float8_all_gather",
            note="--fp8 multiplies by torch's own products",
            off=("auto",),
        ),
        **foreign(
            "gradient_checkpointing disable_gradient_checkpointing use_reentrant_gc "
            "gradient_checkpointing_kwargs use_unsloth_gc activation_checkpointing "
            "activation_checkpointing_kwargs",
            note="the plan decides what is computed twice; --recompute none or block fixes it",
        ),
        **foreign(
            "double_quantization",
            note="the scales of nf4 have 16 bits, a quarter of a bit a weight",
        ),
        **foreign("quantization_device_map", note="the plan says where the base is"),
        **foreign("use_kt", instead="leave it out: danlu's own operations train"),
        **foreign(
            "use_dora pissa_init pissa_iter pissa_convert loraplus_lr_ratio loraplus_lr_embedding "
            "use_badam use_galore use_apollo use_muon use_adam_mini use_llama_pro "
            "additional_target create_new_adapter oft_rank oft_block_size oft_target lora_bias",
            instead="use plain LoRA: --lora_rank, --lora_alpha, --lora_target, --use_rslora",
        ),
        **foreign(
            "galore_target galore_rank galore_update_interval galore_scale galore_proj_type "
            "galore_layerwise apollo_target apollo_rank apollo_update_interval apollo_scale "
            "apollo_proj apollo_proj_type apollo_layerwise apollo_scale_type apollo_scale_front "
            "badam_mode badam_start_block badam_switch_mode badam_switch_interval "
            "badam_update_ratio badam_mask_mode badam_verbose module_dropout asft_alpha eaft_alpha",
            note="it belongs to a method that is not used",
        ),
        **foreign(
            "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules",
            instead="use --finetuning_type lora or full",
        ),
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
            "optim_args optim_target_modules adafactor",
            instead="leave it out: AdamW with float32 state is used",
        ),
        **foreign(
            "pref_beta pref_ftx pref_loss pref_bco_weight dpo_label_smoothing simpo_gamma "
            "ld_alpha kto_chosen_weight kto_rejected_weight ref_model ref_model_adapters "
            "ref_model_quantization_bit reward_model reward_model_adapters "
            "reward_model_quantization_bit reward_model_type ppo_epochs ppo_buffer_size "
            "ppo_score_norm ppo_target ppo_whiten_rewards",
            instead="use --stage sft: danlu trains by examples only",
        ),
        **foreign(
            "do_eval prediction_loss_only eval_do_concat_batches batch_eval_metrics "
            "greater_is_better include_for_metrics include_inputs_for_metrics "
            "eval_use_gather_object eval_num_beams use_legacy_prediction_loop",
            note="held-out rows are always evaluated, and a lower loss is better",
        ),
        **foreign(
            "eval_delay", instead="leave it out: evaluation begins with the first --eval_steps"
        ),
        **foreign(
            "do_predict predict_with_generate compute_accuracy",
            instead="danlu eval does that, from the same file: danlu eval FILE.yaml",
        ),
        **foreign(
            "generation_max_length generation_num_beams generation_config max_new_tokens "
            "max_length do_sample temperature top_p top_k num_beams repetition_penalty "
            "length_penalty skip_special_tokens infer_backend infer_dtype",
            note="training writes no answers; danlu chat and danlu eval take such options",
            off=("true",),
        ),
        **foreign(
            "include_num_input_tokens_seen include_tokens_per_second "
            "include_effective_tokens_per_second logging_strategy logging_first_step "
            "logging_nan_inf_filter skip_memory_metrics disable_tqdm log_level run_name debug",
            note="every step is in metrics.jsonl, tokens, speed and memory included",
        ),
        **foreign(
            "save_only_model restore_callback_states_from_checkpoint enable_jit_checkpoint",
            note="every checkpoint can be resumed from",
        ),
        **foreign("save_safetensors", note="weights are written as safetensors"),
        **foreign("adapter_folder", note="adapters are found in their own folders"),
        **foreign(
            "push_to_hub hub_model_id push_to_hub_model_id use_swanlab",
            instead="leave it out; TensorBoard: --report_to tensorboard",
        ),
        **foreign(
            "hub_strategy hub_token hub_private_repo hub_always_push hub_revision "
            "push_to_hub_token push_to_hub_organization project trackio_space_id "
            "trackio_bucket_id trackio_static_space_id swanlab_project swanlab_workspace "
            "swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir "
            "swanlab_lark_webhook_url swanlab_lark_secret llamaboard_log_dir",
            note="danlu sends nothing to any service",
        ),
    },
    _OPEN: {
        **foreign(
            _ENGINES,
            note="danlu's own engine answers; danlu serve --engine vllm starts vLLM instead, and "
            "takes its options behind --",
        ),
        **foreign(
            "quantization_bit",
            instead="use --quantization int8 or int4; the model's own files stay as they are",
        ),
        **foreign(
            "quantization_method quantization_type double_quantization quantization_device_map",
            note="only --quantization decides how the weights are kept",
        ),
        **foreign("skip_special_tokens", note="special tokens are never shown"),
    },
    _ANSWER: {
        **foreign("max_length", note="--max_new_tokens counts the answer alone"),
        **foreign(
            "num_beams length_penalty",
            instead="leave it out: answers are drawn, or with --do_sample false the likeliest is "
            "taken",
            off=("1", "1.0"),
        ),
    },
    ("serve",): {
        **foreign(
            "do_sample temperature top_p top_k repetition_penalty max_new_tokens max_length "
            "default_system",
            instead="leave it out: programs send it with each request; without, the model's own "
            "generation_config.json counts",
            off=("true",),
        ),
        **foreign(
            "num_beams length_penalty",
            instead="leave it out: answers are drawn, or at temperature 0 the likeliest is taken",
            off=("1", "1.0"),
        ),
    },
    ("eval",): {
        **foreign(
            "do_sample temperature top_p top_k num_beams repetition_penalty length_penalty",
            note="the likeliest answer is scored, so that two models can be compared",
        ),
        **foreign("max_length", note="--max_new_tokens counts the answer alone"),
        **foreign(
            "cutoff_len preprocessing_num_workers preprocessing_batch_size dataloader_num_workers "
            "per_device_eval_batch_size overwrite_cache ddp_timeout",
            note="rows are read whole, and answered many at once",
        ),
        **foreign(
            "do_predict do_eval predict_with_generate compute_accuracy",
            note="loss and answers are scored in any case",
        ),
        **foreign("overwrite_output_dir", note="answers that are there are never written over"),
        **foreign("default_system", instead="leave it out, and give the rows a system prompt"),
        **foreign(
            "task",
            instead="leave it out, and name rows of your own with --dataset: danlu holds no "
            "benchmarks",
        ),
        **foreign(
            "task_dir lang n_shot batch_size save_dir download_mode",
            note="it belongs to a benchmark that is not run",
        ),
    },
    ("data",): foreign("adapter_name_or_path", note="an adapter changes no tokens"),
    ("merge",): {
        **foreign(
            "infer_dtype", note="the merged weights keep the precision that the base's files have"
        ),
        **foreign("export_device", note="one matrix at a time is merged, on the CPU"),
        **foreign(
            "export_quantization_bit",
            instead="leave it out, and open the merged model with --quantization int8 or int4",
        ),
        **foreign(
            "quantization_bit quantization_method quantization_type double_quantization "
            "quantization_device_map",
            instead="leave it out: an adapter is merged into the base's own weights",
        ),
    },
    ("export",): {
        **foreign("infer_dtype", note="--type chooses the numbers of the file"),
        **foreign("export_device", note="one matrix at a time is written, by the CPU"),
        **foreign("export_size", note="a GGUF file is one file"),
        **foreign("export_quantization_bit quantization_bit", instead="use --type q8_0"),
        **foreign(
            "quantization_method quantization_type double_quantization quantization_device_map",
            note="--type chooses the numbers of the file",
        ),
    },
    _WRITE: {
        **foreign("export_legacy_format", note="weights are never written as a pickle"),
        **foreign(
            "export_quantization_dataset export_quantization_nsamples export_quantization_maxlen",
            note="weights are rounded without looking at data",
        ),
        **foreign("export_hub_model_id", instead="leave it out: danlu uploads nothing"),
        **foreign("output_dir", instead="--export_dir names the folder for the result"),
    },
}


def options_for(command: str) -> Mapping[str, Foreign]:
    """Return what the options of other programs mean to a command, by name."""
    of_training = (options for commands, options in _TABLE.items() if "train" in commands)
    ours = (options for commands, options in _TABLE.items() if command in commands)
    found = {name: _ONLY_TRAINING["stage"] for options in of_training for name in options}
    for options in ours:
        found.update(options)
    return found
