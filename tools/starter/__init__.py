"""The recipe of the built-in starter model: data generators, tokenizer, training, evaluation."""
