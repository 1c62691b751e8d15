#!/usr/bin/env bash
# 在终端里与模型对话 / talks with the model in the terminal
. "$(dirname "${BASH_SOURCE[0]}")/.danlu.sh"
choose_model
exec "$danlu" chat "$@"
