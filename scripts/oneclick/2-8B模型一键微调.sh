#!/usr/bin/env bash
# 微调。把自己的数据放进 data 文件夹，写进那里的 dataset_info.json，再改 --dataset。
# Fine-tunes. Put your rows into the folder data, list them in its dataset_info.json, change --dataset.
. "$(dirname "${BASH_SOURCE[0]}")/.danlu.sh"
choose_model
data=data
[ -d data ] || data=../../examples
rate=3e-4 epochs=10
[ "${DANLU_MODEL:-}" != starter ] || rate=2e-3 epochs=30 # it is tiny
rate=${DANLU_LEARNING_RATE:-$rate} epochs=${DANLU_NUM_TRAIN_EPOCHS:-$epochs}
exec "$danlu" train \
    --stage sft \
    --do_train \
    --dataset identity \
    --dataset_dir "$data" \
    --finetuning_type lora \
    --output_dir saves/lora \
    --overwrite_output_dir \
    --cutoff_len 1024 \
    --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 2 \
    --lr_scheduler_type cosine \
    --warmup_ratio 0.05 \
    --learning_rate "$rate" \
    --num_train_epochs "$epochs" \
    --eval_strategy steps \
    --eval_steps 0.1 \
    --load_best_model_at_end \
    --val_size 0.1 \
    --plot_loss "$@"
