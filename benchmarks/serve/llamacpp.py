"""llama.cpp's environment and files: built from its source package, outside the repository.

The package `llama-cpp-python` holds llama.cpp's own sources; pip builds them for this processor,
some ten minutes on two cores. Its conversion script makes the model file, its library the
quantised ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

ENVIRONMENT = Path("~/.cache/danlu-bench/llamacpp")
VERSION = "0.3.36"
# Names of the formats here, and llama.cpp's numbers for them (llama.h, enum llama_ftype).
QUANTISED = {"q8_0": 7, "q4_0": 2}
# More of them. q4_K: all matrices in it; q4_K_M: some in q6_K, the output matrix among them.
K_QUANTS = {"q4_K": 14, "q4_K_M": 15}
_PURE = "q4_K"
_QUANTISE = """
import sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = int(sys.argv[3])
params.pure = sys.argv[4] == "pure"
source, target = (word.encode() for word in sys.argv[1:3])
sys.exit(llama_cpp.llama_model_quantize(source, target, params))
"""


def make_environment(folder: Path) -> Path:
    """Return the environment's Python; make it first where it is missing or another version."""
    python, stamp = folder / "bin" / "python", folder / "made-from"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == VERSION:
        return python
    print(f"building llama.cpp in {folder} (some ten minutes)", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q"]
    package = f"llama-cpp-python=={VERSION}"
    sources = folder / "sources"
    _run([*pip, "download", "--no-deps", "--no-binary", ":all:", "-d", str(sources), package])
    archive = next(sources.glob("*.tar.gz"))
    with tarfile.open(archive) as packed:
        packed.extractall(sources, filter="data")
    _run([*pip, "install", str(archive)], {"CMAKE_ARGS": "-DGGML_NATIVE=ON"})
    # The conversion runs with our torch and transformers, and wants one package more.
    _run([*pip, "install", "--no-deps", "--target", str(folder / "more"), "sentencepiece"])
    stamp.write_text(VERSION, encoding="utf-8")
    return python


def write_models(
    model: Path, environment: Path, output: Path, formats: Mapping[str, int] = QUANTISED
) -> dict[str, Path]:
    """Convert a model folder; return the file of every format."""
    sources = next((environment / "sources").glob(f"*{VERSION}/vendor/llama.cpp"))
    files = {"bf16": output / "bf16.gguf"}
    convert = [sys.executable, str(sources / "convert_hf_to_gguf.py"), str(model)]
    gguf = {"PYTHONPATH": os.pathsep.join([str(sources / "gguf-py"), str(environment / "more")])}
    _run([*convert, "--outtype", "bf16", "--outfile", str(files["bf16"])], gguf)
    python = str(environment / "bin" / "python")
    for name, number in formats.items():
        files[name] = output / f"{name}.gguf"
        words = [str(files["bf16"]), str(files[name]), str(number)]
        _run([python, "-c", _QUANTISE, *words, "pure" if name == _PURE else "mixed"])
    return files


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout[-3000:]}\nthis failed: {' '.join(command)}")
