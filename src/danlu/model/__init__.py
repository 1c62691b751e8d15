"""Qwen3: its shapes, its weights and its forward pass, shared by training and inference."""
