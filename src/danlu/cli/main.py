"""`danlu COMMAND ...`: finds the command and turns every failure into three lines and a code.

Loads only the module of the command that runs; `danlu --help` loads neither torch nor numpy.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import danlu
from danlu.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, DanluError, UsageError
from danlu.language import _

# name: one line of help. Each is a module danlu.cli.NAME with `run(argv) -> exit code`.
COMMANDS = {
    "demo": "fine-tune, compare, merge and chat with the built-in model, in two minutes",
    "train": "fine-tune a model on your own data",
    "chat": "talk to a model, with or without an adapter",
    "generate": "answer one prompt, from the command line or from standard input",
    "merge": "write an adapter into its base model, and verify the result",
    "info": "show the machine, or what a model, adapter or run folder holds",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except DanluError as problem:
        if debug:
            traceback.print_exc()
        print(f"{_('Error')}: {problem}", file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`danlu ... | head`); nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as problem:
        if debug:
            traceback.print_exc()
        lines = (
            f"{_('Error')}: {type(problem).__name__}: {problem}",
            _("This is a bug in danlu {version}.").format(version=danlu.__version__),
            _("Run the command again with --debug and report what it prints."),
        )
        print("\n".join(lines), file=sys.stderr)
        return EXIT_BUG


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return EXIT_OK
    if words[0] in ("-V", "--version", "version"):
        print(f"danlu {danlu.__version__}")
        return EXIT_OK
    name = words[0]
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        raise UsageError(
            _("There is no command {name}.").format(name=name),
            why=_("The commands are {names}.").format(names=", ".join(COMMANDS)),
            fix=_("Did you mean danlu {nearest}?").format(nearest=nearest),
        )
    code: int = import_module(f"danlu.cli.{name}").run(words[1:])
    return code


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [_("usage: danlu COMMAND [--setting value ...]"), ""]
    lines += [f"  {name:<{width}}  {_(text)}" for name, text in COMMANDS.items()]
    lines += ["", _("danlu COMMAND --help lists the settings. DANLU_LANG=zh: 中文")]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
