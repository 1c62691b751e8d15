#!/usr/bin/env bash
# What a container does that is told nothing else: the studio on port 6006, JupyterLab on port 6008.
# Both ask for the key that is printed; -e DANLU_API_KEY=... gives another one.
set -euo pipefail
cd ~
# A volume in the place of the home folder is empty at first.
[ -e .danlu.sh ] || danlu scripts install ~
# shellcheck disable=SC1091
. ./.danlu.sh
make_key
# shellcheck disable=SC2154
JUPYTER_TOKEN=$key /opt/danlu/.venv/bin/jupyter lab --no-browser --allow-root --ip 0.0.0.0 --port 6008 &
export DANLU_HOST=${DANLU_HOST:-0.0.0.0}
listen web
