"""Kernels that read frozen weights as they are stored: int8, int4, fp8."""
