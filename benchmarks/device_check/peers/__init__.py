"""The same work by transformers and PEFT, on the same card."""
