"""From logits to tokens: what a request asks of them, the choice, log probabilities."""
