"""One prepared check for a machine that is lent for minutes: is its card right, how fast is it.

    python -m benchmarks.device_check OUT [--minutes 8] [--parts training,decoding]

Random weights in Qwen3-8B's shape are made on the card; nothing is fetched. What is found is
written as it is found, so that a run that is cut off keeps what it has. The parts are in order of
worth; one that fails or lacks a library does not end the others.
"""
