"""Text and tokens: the chat format, the tokenizer, and the parser of generated text."""
