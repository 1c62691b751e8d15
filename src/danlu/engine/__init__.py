"""Inference: requests in, tokens and text out, all running requests in one batch."""
