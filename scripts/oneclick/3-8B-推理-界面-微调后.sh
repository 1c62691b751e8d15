#!/usr/bin/env bash
# 在浏览器里与微调后的模型对话 / talks with the fine-tuned model in the browser
. "$(dirname "${BASH_SOURCE[0]}")/.danlu.sh"
need saves/lora 2-8B模型一键微调.sh
listen web --adapter saves/lora "$@"
