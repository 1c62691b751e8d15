"""Speed of inference: danlu's engine beside transformers and llama.cpp, on the same random model.

    make bench-serve CONFIG=FOLDER TOKENIZER=FOLDER [OUTPUT=FIGURES.json]

Every side runs in a process of its own, one after the other. What is compared are tokens a second,
so ratios from one run on one machine count, and nothing else.
"""
