"""Variants for the CPU: kernels in C++ (native/), called by ctypes."""
