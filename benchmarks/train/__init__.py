"""Fine-tuning speed next to the peers: `make bench-train`, or `python -m benchmarks.train --help`.

danlu, LLaMA-Factory and a plain transformers + PEFT loop train the same random model on the same
rows with the same recipe, each in a process of its own, one after the other. `peers` installs the
others, `inputs` and `model` write what all sides read, `side` is the process in which a side runs
and is watched, `flops` says what the work was worth, `report` puts the figures side by side.
"""
