"""Installs danlu into .venv, with the torch build that fits this machine.

Started by `scripts/install.sh` and `make setup`, before anything is installed: nothing but the
standard library and the parts of danlu that need no more.
"""
