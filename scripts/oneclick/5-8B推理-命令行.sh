#!/usr/bin/env bash
# 在终端里与合并后的模型对话 / talks with the merged model in the terminal
. "$(dirname "${BASH_SOURCE[0]}")/.danlu.sh"
need saves/merged 4-8B-合并-微调后.sh
exec "$danlu" chat --model saves/merged "$@"
