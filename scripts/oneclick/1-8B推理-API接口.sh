#!/usr/bin/env bash
# 用 OpenAI 的 API 提供模型 / serves the model to programs that speak OpenAI's API
. "$(dirname "${BASH_SOURCE[0]}")/.danlu.sh"
choose_model
listen serve "$@"
