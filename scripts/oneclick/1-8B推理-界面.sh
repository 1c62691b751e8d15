#!/usr/bin/env bash
# 在浏览器里与模型对话 / talks with the model in the browser
. "$(dirname "${BASH_SOURCE[0]}")/.danlu.sh"
choose_model
listen web "$@"
