"""Tensors in safetensors files, read and written in place."""
