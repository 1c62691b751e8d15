#!/bin/sh
# One check of a card in at most ten minutes, from a plain copy of this repository, without network:
#   sh scripts/device_check.sh [FOLDER] [--minutes 8] [--parts training,decoding]
# What it found goes to FOLDER, else to $OUT, else to ./device_check. Libraries that the machine lacks
# may be carried: wheels or a site-packages folder in ./carry, or in $CARRY (docs/performance.md).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
carry=${CARRY:-$PWD/carry}
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -d "$carry" ]; then
    if ls "$carry"/*.whl >/dev/null 2>&1; then
        # A wheel is a zip file; pip need not be there, and what is carried may be read-only.
        unpacked=$carry/unpacked
        mkdir -p "$unpacked" 2>/dev/null && test -w "$unpacked" || unpacked=$(mktemp -d)
        for wheel in "$carry"/*.whl; do
            "$python" -m zipfile -e "$wheel" "$unpacked" || echo "not unpacked: $wheel"
        done
        PYTHONPATH="$PYTHONPATH:$unpacked"
    fi
    PYTHONPATH="$PYTHONPATH:$carry"
fi
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "$python" -m benchmarks.device_check "$@"
