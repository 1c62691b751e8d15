"""danlu (丹炉): fine-tune and serve Qwen3 on one machine.

Importing the package loads neither torch nor numpy; every room loads what it needs. It sets what
torch reads from the environment when it is loaded (`danlu.environment`).
"""

from danlu.environment import prepare_environment

__version__ = "0.1.0"

prepare_environment()
