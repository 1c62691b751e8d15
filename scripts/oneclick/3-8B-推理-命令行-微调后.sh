#!/usr/bin/env bash
# 在终端里与微调后的模型对话 / talks with the fine-tuned model in the terminal
. "$(dirname "${BASH_SOURCE[0]}")/.danlu.sh"
need saves/lora 2-8B模型一键微调.sh
exec "$danlu" chat --adapter saves/lora "$@"
