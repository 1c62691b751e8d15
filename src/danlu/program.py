"""The commands there are, and how this process's danlu is called, so that printed commands run.

Texts name a command as `danlu train`. Where one is shown to be typed, `as_typed` puts in what
starts this danlu from here: after `make setup` that is `.venv/bin/danlu`, until it is on PATH.
Fixes of errors pass through it by themselves.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

# Each command NAME is the module NAME of danlu.cli with `run(argv) -> exit code`.
COMMANDS = {
    "demo": "fine-tune, compare, merge and chat in two minutes, on the built-in starter model",
    "train": "fine-tune a model on your own data",
    "plan": "say what a run would need and how long it would take, before it starts",
    "data": "check a data set, or show what would be learned from it",
    "eval": "compare a run with its base, or score a model on a data set",
    "chat": "talk with a model, a run or an adapter",
    "generate": "answer one prompt, or every row of a file",
    "serve": "serve a model to programs that speak OpenAI's API",
    "web": "open danlu in the browser: chat, data, fine-tuning, comparison, merging",
    "merge": "write base and adapter as one ordinary model folder",
    "export": "write a model for llama.cpp or Ollama, as one GGUF file",
    "models": "list the models that are here, those to pull, and what each needs on this machine",
    "pull": "download a published Qwen3, from Hugging Face or ModelScope",
    "use": "set the model that is used where none is named",
    "rm": "remove a model that danlu pull has downloaded",
    "runs": "list, show or stop the fine-tuning runs of this machine",
    "bundle": "write all that an installation without a network needs into one folder",
    "scripts": "write the tutorial's one-click scripts into a folder",
    "info": "show this machine, or what a model folder, run or adapter is",
    "doctor": "say what is wrong with this machine, and the command that repairs it",
}

_NAMED = re.compile(
    rf"(?<![\w./-])danlu(?= (?:{'|'.join(COMMANDS)}|--help|--version)(?![\w/]))",
    re.ASCII,  # beside Chinese stands no space
)


def as_typed(text: str) -> str:
    """Write the commands in a text as they can be typed here, behind a `cd` too."""
    return _NAMED.sub(
        lambda found: own_command(
            anywhere=re.search(r"\bcd .* && $", text[: found.start()]) is not None
        ),
        text,
    )


def own_command(*, anywhere: bool = False) -> str:
    """Return what a shell takes for this process's danlu: `danlu` where that is on PATH.

    anywhere: from every folder, where it may be a relative path else.
    """
    beside = Path(sys.executable).with_name("danlu")
    started = Path(sys.argv[0])
    scripts = (started, beside) if started.name == "danlu" else (beside,)
    script = next((script.absolute() for script in scripts if script.is_file()), None)
    if script is None:
        return shlex.join([sys.executable, "-m", "danlu.cli.main"])
    known = shutil.which("danlu")
    if known is not None and script.samefile(known):
        return "danlu"
    # .venv/bin/danlu is short where one has typed it.
    clone = () if anywhere else script.parents[2:3]
    return shlex.quote(str(script.relative_to(Path.cwd()) if Path.cwd() in clone else script))


def own_pip() -> str:
    """Return what a shell takes for this Python's pip: `pip` where that is the one on PATH."""
    known = shutil.which("pip")
    beside = Path(sys.executable).with_name("pip")
    if known is not None and beside.is_file() and beside.samefile(known):
        return "pip"
    return shlex.join([sys.executable, "-m", "pip"])
