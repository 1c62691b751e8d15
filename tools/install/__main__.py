"""The steps of an installation, from the machine to its first answer.

python -m tools.install [--banner] [--device npu] [--jupyter]     with src in PYTHONPATH
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter

from danlu.device.ascend.machine import AscendMachine
from danlu.device.cards import Cards, cards_elsewhere, cuda_capabilities, find_cards
from danlu.errors import DanluError, EnvironmentFault
from danlu.language import _
from native import build
from tools.install import bundle
from tools.install.builds import AGAIN, ROOT, TorchChoice, choose, installed_here
from tools.install.environment import (
    DANLU,
    FOLDER,
    check_space,
    environ,
    install,
    make_environment,
    pinned_torch,
)
from tools.install.indexes import first_listing
from tools.install.login import login_file, show_at_login


def main() -> int:
    """Install, check, say what comes next; errors are three lines and an exit code."""
    asked = _read_words()
    try:
        found = _cards(asked.device)
        print(_machine_line(found))
        here = bundle.bundle_here()
        choice = _choice(found, here)
        print(choice.reason, flush=True)
        check_space(choice)
        make_environment(choice)
        install(choice, jupyter=asked.jupyter)
        if here is not None:
            bundle.place_models()
        _say_kernels()
        if not asked.no_check:
            _check(found)
            _say_page()
            _say_next(found, at_login=asked.banner)
    except DanluError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    except KeyboardInterrupt:
        print(_("interrupted; {command} goes on").format(command=AGAIN), file=sys.stderr)
        return 130
    return 0


def _cards(device: str | None) -> Cards:
    """Look at the machine; where a device is named that it lacks, it is for one that has it."""
    found = find_cards()
    return found if device in (None, found.kind) else cards_elsewhere(device)


def _choice(found: Cards, here: bundle.Bundle | None) -> TorchChoice:
    if here is not None:
        bundle.check(here)
        return bundle.choice_of(here, installed_here())
    return choose(
        found=found,
        installed=installed_here(),
        torch=pinned_torch(),
        pip_words=shlex.split(os.environ.get("PIP_ARGS", "")),
        find=first_listing,
        capabilities=cuda_capabilities(),
    )


def _say_kernels() -> None:
    """Build the kernels for the CPU where pip has not; say whether they are there."""
    try:
        if not build.is_up_to_date():
            build.build()
        print(_("kernels for the CPU: built"))
    except (build.CannotBuild, OSError) as fault:
        print(
            _(
                "kernels for the CPU: not built: {reason}. Everything works, answers on the CPU "
                "come slower; later: {command}"
            ).format(reason=fault, command=AGAIN)
        )


def _say_page() -> None:
    """Say where the studio has no page: pip keeps to itself what was said while it was built."""
    page = ROOT / "src" / "danlu" / "web" / "page" / "index.html"
    if (ROOT / "frontend").is_dir() and not page.exists():
        print(
            _(
                "The studio's page is not built: no Node.js, or no network for it. Everything else "
                "works; later: make studio"
            )
        )


def _read_words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=AGAIN,
        description=_(
            "Install danlu into .venv with the torch that fits this machine, or repair it."
        ),
    )
    parser.add_argument("--banner", action="store_true", help=_("show the machine at each login"))
    parser.add_argument(
        "--device",
        choices=["npu", "cuda", "cpu"],
        help=_("install for this device, although the machine may lack it: for an image"),
    )
    parser.add_argument("--jupyter", action="store_true", help=_("install JupyterLab too"))
    parser.add_argument("--no_check", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _machine_line(found: Cards) -> str:
    counts = Counter(card.name for card in found.cards)
    names = ", ".join(f"{count} x {name}" for name, count in counts.items())
    if not names and found.kind != "cpu":
        names = _("{device}, which is elsewhere").format(device=found.kind)
    elif not names:
        names = _("CPU; no other device found")
    machine = os.uname().machine
    return _("machine: {names}, {machine}, Python {version}").format(
        names=names, machine=machine, version=".".join(map(str, sys.version_info[:3]))
    )


def _check(found: Cards) -> None:
    """Let the installed danlu name its device and answer once."""
    print(_("checking: danlu info"), flush=True)
    facts = json.loads(_output("info", "--json"))
    device = str(facts["device"])
    print(f"  {device}")
    if found.cards and not device.startswith(found.kind):
        print(
            _("ATTENTION: the driver shows {card}, but torch computes on {device}.").format(
                card=found.cards[0].name, device=device
            )
        )
        if "npu" in facts:  # why there is none, and what repairs it
            print(f"  {facts['npu']}")
    question = _("Who are you?")
    print(_("checking: danlu generate, on the built-in starter model"), flush=True)
    began = time.monotonic()
    # A device that is elsewhere cannot answer here.
    here = () if found.cards or found.kind == "cpu" else ("--device", "cpu")
    answer = _output("generate", "--model", "starter", "--max_new_tokens", "40", *here, question)
    seconds = time.monotonic() - began
    print(f"  {question} -> {answer.strip()} ({seconds:.1f} s)")


def _output(*words: str) -> str:
    done = subprocess.run(
        [str(DANLU), *words], capture_output=True, text=True, check=False, env=environ()
    )
    if done.returncode == 0 and done.stdout.strip():
        return done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    raise EnvironmentFault(
        _("danlu is installed but does not run."),
        why=lines[-1] if lines else _("It printed nothing."),
        fix=f"{shlex.quote(str(DANLU))} info --debug",
    )


def _say_next(found: Cards, *, at_login: bool) -> None:
    print(_("danlu is installed in {folder}. In each new terminal:").format(folder=FOLDER))
    script = AscendMachine().set_env
    if found.toolkit == "CANN" and script is not None:
        print(f"  source {shlex.quote(str(script))}")
    print(f"  source {shlex.quote(str(FOLDER / 'bin' / 'activate'))}")
    print(_("Then danlu demo shows it all in two minutes, danlu --help what there is."))
    if at_login:
        file = login_file()
        show_at_login(DANLU, file)
        print(_("The banner is shown at each login; {file} says so.").format(file=file))
    else:
        print(_("To see this machine at each login: {command}").format(command=f"{AGAIN} --banner"))


if __name__ == "__main__":
    sys.exit(main())
