#!/usr/bin/env bash
# 按 merge.yaml 合并 / merges as merge.yaml says; an earlier result is kept under another name
. "$(dirname "${BASH_SOURCE[0]}")/.danlu.sh"
need saves/lora 2-8B模型一键微调.sh
if [ -e saves/merged ]; then
    before=saves/merged-$(date +%Y%m%d-%H%M%S)
    mv saves/merged "$before"
    say "上一次合并的结果移到了 $before" "What was merged before is now $before"
fi
exec "$danlu" merge merge.yaml "$@"
