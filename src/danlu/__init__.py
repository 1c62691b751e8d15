"""danlu (丹炉): fine-tune and serve Qwen3 on one machine.

Importing the package loads neither torch nor numpy; every room loads what it needs.
"""

__version__ = "0.1.0"
