#!/usr/bin/env bash
# 用 OpenAI 的 API 提供微调后的模型 / serves the fine-tuned model
. "$(dirname "${BASH_SOURCE[0]}")/.danlu.sh"
need saves/lora 2-8B模型一键微调.sh
listen serve --adapter saves/lora "$@"
