"""LoRA adapters: their matrices, their products in training and inference, their files."""
