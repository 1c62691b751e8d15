"""Makes .venv and fills it; done again, it repairs what is missing and leaves the rest.

Knows venv and pip. Must not know how torch is chosen.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from danlu.errors import CapacityError, DanluError, EnvironmentFault
from danlu.language import _
from danlu.units import GIB, readable_bytes
from tools.install.builds import AGAIN, BUILDS, ROOT, TorchChoice

FOLDER = ROOT / ".venv"
PYTHON = FOLDER / "bin" / "python"
DANLU = FOLDER / "bin" / "danlu"
# Written last; `make` installs nothing again while it is newer than what says what to install.
STAMP = FOLDER / "installed"
PINS = FOLDER / "constraints.txt"
_RETRIES = "2"
# How pip and the libraries below it say that nobody answered.
_NO_NETWORK = (
    "NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "Failed to establish",
    "name resolution", "Name or service not known", "Network is unreachable", "ProxyError",
    "Connection refused", "timed out", "ConnectionResetError", "(from versions: none)",
)  # fmt: skip
# Prints the versions that an environment has of what it is asked for.
_VERSIONS = (
    "import sys, pip\nfrom importlib import metadata\n"
    "for name in sys.argv[1:]:\n"
    "    try: print(metadata.version(name))\n"
    "    except metadata.PackageNotFoundError: print('-')\n"
)


def check_space(choice: TorchChoice) -> None:
    """Raise CapacityError where the disk is too small for what is not installed yet."""
    free = shutil.disk_usage(ROOT).free
    if STAMP.exists() or free >= choice.free_gib * GIB:
        return
    raise CapacityError(
        _("The disk is too small for the installation."),
        why=_("{folder} has {free} left; about {needed:.0f} GiB are needed.").format(
            folder=ROOT, free=readable_bytes(free), needed=choice.free_gib
        ),
        fix=_("Free space, or move the folder to a larger disk, then: {command}").format(
            command=AGAIN
        ),
    )


def make_environment(choice: TorchChoice) -> None:
    """Create .venv where it is missing; raise EnvironmentFault where it cannot be used."""
    if not FOLDER.exists():
        print(_("creating {folder}").format(folder=FOLDER), flush=True)
        _create(sees_system=choice.sees_system)
    kept = ("torch", "torch-npu") if choice.sees_system else ()
    asked = _run([str(PYTHON), "-c", _VERSIONS, *kept])
    why = ""
    if asked.returncode != 0:
        why = _("It is damaged: {reason}").format(reason=_last_line(asked.stderr))
    elif asked.stdout.split() != [choice.pins[name] for name in kept]:
        why = _("It does not have torch {torch} of {python}, since it was made without.").format(
            torch=choice.pins["torch"], python=sys.executable
        )
    if why:
        raise EnvironmentFault(
            _("The environment {folder} cannot be used.").format(folder=FOLDER),
            why=why,
            fix=f"rm -r {shlex.quote(str(FOLDER))}; {AGAIN}",
        )


def _create(*, sees_system: bool) -> None:
    options = ["--system-site-packages"] if sees_system else []
    made = _run([sys.executable, "-m", "venv", *options, str(FOLDER)])
    if made.returncode != 0:
        shutil.rmtree(FOLDER, ignore_errors=True)
        raise EnvironmentFault(
            _("The environment {folder} could not be created.").format(folder=FOLDER),
            why=_last_line(made.stdout + made.stderr),
            fix=_(
                "Install Python's venv (python3-venv on Debian and Ubuntu), then: {command}"
            ).format(command=AGAIN),
        )
    if sees_system and sys.prefix != sys.base_prefix:
        # venv shows only what belongs to the Python below; this one is an environment itself.
        own = sysconfig.get_path("purelib", vars={"base": str(FOLDER)})
        above = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (Path(own) / "above.pth").write_text("\n".join(above) + "\n", encoding="utf-8")


def write_pins(pins: Mapping[str, str]) -> None:
    """Write .venv/constraints.txt: the tested versions, with those of `pins` in their place."""
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    others = [line for line in tested if _name(line) not in pins]
    lines = [*others, *(f"{name}=={version}" for name, version in pins.items())]
    PINS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def pinned_torch() -> str:
    """Return the version of torch in constraints.txt."""
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(r"^torch==(\S+)", tested, re.MULTILINE)
    if found is None:
        raise ValueError("constraints.txt names no torch")
    return found[1]


def install(choice: TorchChoice, *, jupyter: bool = False) -> None:
    """Let pip install danlu and what it needs; raise EnvironmentFault in words where it fails.

    jupyter: JupyterLab too, whose notebooks then run with this danlu.
    """
    STAMP.unlink(missing_ok=True)
    write_pins(choice.pins)
    words = [
        *(str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"),
        *("--retries", _RETRIES, *choice.pip_words, "-c", str(PINS)),
        *(*choice.requirements, "-e", ".[jupyter]" if jupyter else "."),
    ]
    said = run_pip(words)
    if said is not None:
        raise fault_of_pip(said)
    STAMP.touch()


def fault_of_pip(said: str) -> DanluError:
    """Put into words what pip said on standard error."""
    if "No space left on device" in said:
        return CapacityError(
            _("The disk became full during the installation."),
            why=_reason(said),
            fix=_("Free space, or move the folder to a larger disk, then: {command}").format(
                command=AGAIN
            ),
        )
    if any(words in said for words in _NO_NETWORK):
        system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", said)
        return EnvironmentFault(
            _("The packages could not be downloaded."),
            why=_("pip reached no index: {reason}").format(
                reason=system[1] if system else _reason(said)
            ),
            fix=_("Check the network or the proxy, or take a mirror: {command}").format(
                command=f"PIP_INDEX_URL={BUILDS['pypi_mirror']} {AGAIN}"
            ),
        )
    print(said, file=sys.stderr)
    return EnvironmentFault(
        _("pip could not install danlu."), why=_reason(said), fix=f"PIP_VERBOSE=1 {AGAIN}"
    )


def run_pip(words: Sequence[str]) -> str | None:
    """Run pip; return what it said on standard error if it failed, else None.

    Its progress is shown as it comes, its errors are kept back: they are put into words later.
    """
    said, has_waited = [], False
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, cwd=ROOT, env=environ(), text=True, errors="replace"
    ) as pip:
        for line in pip.stderr or ():
            said.append(line)
            if line.startswith("WARNING: Retrying") and not has_waited:
                has_waited = True
                print(_("no answer yet; pip tries again"), flush=True)
    return "".join(said) if pip.returncode else None


def environ() -> dict[str, str]:
    """Return the environment without the path on which this program itself is found."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in paths if path and path not in (str(ROOT), str(ROOT / "src"), "src")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(kept)}


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env=environ(), errors="replace"
    )


def _name(line: str) -> str:
    return re.split(r"[=<>! ;]", line, maxsplit=1)[0].lower().replace("_", "-")


def _reason(said: str) -> str:
    """Return the line in which pip says what was wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["-"])[0].removeprefix("ERROR: ")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "-"
