"""The peers' Python environment: made once, outside the repository, in pinned versions.

torch comes first, in danlu's version, so that all sides have the same kernels. pip's own settings
apply: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes the smaller CPU build.
Everything else is `peers.txt`. Of the two libraries that LLaMA-Factory asks for and that are left
out, it imports torchaudio, for text too: an empty module stands in for it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PINS = Path(__file__).with_name("peers.txt")
STAND_IN = '"""Stands in for torchaudio, which is imported here but not used for text."""\n'


def make_peers(folder: Path) -> Path:
    """Return the environment's Python; make it first where it is missing or another version.

    Raises SystemExit for a Python that LLaMA-Factory does not support or a failed installation.
    """
    if sys.version_info < (3, 11):
        raise SystemExit("LLaMA-Factory needs Python 3.11: make PYTHON=python3.11 setup")
    torch = f"torch=={metadata.version('torch').partition('+')[0]}"
    python, stamp = folder / "bin" / "python", folder / "made-from"
    made_from = hashlib.sha256(f"{sys.version}{torch}".encode() + PINS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == made_from:
        return python
    print(f"installing the peers in {folder} (some 2 GB, a few minutes)", flush=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [*pip, torch],
        [*pip, "--no-deps", "-r", str(PINS)],
    ):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{done.stdout}\ncould not install the peers: {' '.join(command)}")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "lib" / version / "site-packages" / "torchaudio.py").write_text(STAND_IN)
    # Last, so that an interrupted installation is done again.
    stamp.write_text(made_from, encoding="utf-8")
    return python
