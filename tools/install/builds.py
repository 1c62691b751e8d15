"""Which torch this machine gets, and why: the one place that decides it.

Knows the data in torch_builds.json, what the drivers' tools show, and what the Python that runs
this has. Changes nothing.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from danlu.device.ascend.machine import AscendMachine
from danlu.device.ascend.versions import (
    OLDEST_TORCH,
    TORCH_NPU_IMAGE,
    USABLE_PAIRS,
    numbers,
    pairs_for,
    release,
)
from danlu.device.cards import Cards
from danlu.device.nvidia_cards import has_kernels
from danlu.errors import EnvironmentFault
from danlu.language import _

BUILDS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "torch_builds.json").read_text(encoding="utf-8")
)
ROOT = Path(__file__).resolve().parents[2]
AGAIN = f"bash {shlex.quote(str(ROOT / 'scripts' / 'install.sh'))}"
# What an image's torch_npu was built against; it stays as it is. The oldest that danlu runs with.
_KEPT = {"torch": OLDEST_TORCH, "torch-npu": "", "numpy": "1.26"}

# Finds the first index that lists a build: (indexes, version, build) to its address.
Finder = Callable[[Sequence[str], str, str], "str | None"]


@dataclass(frozen=True, kw_only=True)
class TorchChoice:
    """What is told to pip, and in a sentence why.

    pins: versions in the place of those in constraints.txt. requirements: what is installed
    besides danlu. sees_system: the environment uses the packages of the Python that made it.
    free_gib: disk that is needed.
    """

    reason: str
    pip_words: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    sees_system: bool = False
    free_gib: float = 0.0


def choose(
    *,
    found: Cards,
    installed: Mapping[str, str],
    torch: str,
    pip_words: Sequence[str],
    find: Finder,
    python: tuple[int, int] = sys.version_info[:2],
    capabilities: Sequence[tuple[int, int]] = (),
) -> TorchChoice:
    """Choose torch: what the user says, what is there for Ascend, what fits the device.

    installed: versions of what this Python has, by name. torch: the version in constraints.txt.
    python: the one that will run it. capabilities: of the CUDA cards, where they say it.
    Raises EnvironmentFault where nothing fits, with what would.
    """
    if "torch-npu" in installed:
        return existing_pair(installed, pip_words)
    if pip_words:
        return TorchChoice(
            reason=_("torch: as PIP_ARGS says ({words})").format(words=" ".join(pip_words)),
            pip_words=tuple(pip_words),
        )
    if found.kind == "npu":
        return _new_pair(found, python, find)
    if found.kind == "cuda":
        return _cuda_build(found, torch, find, capabilities)
    url, words = _cpu_words(torch, find)
    device = _("no NVIDIA card and no NPU found")
    if url is None:
        reason = _("torch: {device}, but no index of CPU builds answers; pip's own index is used")
        note = _("Its torch may bring several GB of CUDA libraries that are not needed here.")
        return TorchChoice(
            reason=reason.format(device=device) + "\n" + note, free_gib=BUILDS["cpu"]["free_gib"]
        )
    return TorchChoice(
        reason=_("torch: the CPU build from {url} ({device})").format(url=url, device=device),
        pip_words=words,
        pins={"torch": f"{torch}+cpu"},
        free_gib=BUILDS["cpu"]["free_gib"],
    )


def installed_here() -> dict[str, str]:
    """Return the versions of torch, torch_npu and numpy that this Python has."""
    versions = {}
    for name in _KEPT:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def existing_pair(installed: Mapping[str, str], pip_words: Sequence[str]) -> TorchChoice:
    """Keep the torch and torch_npu of this Python; raise EnvironmentFault where they cannot."""
    torch, torch_npu = installed.get("torch", ""), installed["torch-npu"]
    if release(torch) != release(torch_npu):
        raise EnvironmentFault(
            _("torch and torch_npu of this machine do not belong together."),
            why=_("{python} has torch {torch} and torch_npu {torch_npu}.").format(
                python=sys.executable, torch=torch or "-", torch_npu=torch_npu
            ),
            fix=shlex.join(
                [sys.executable, "-m", "pip", "install", f"torch=={release(torch_npu)}"]
            ),
        )
    if numbers(torch) < numbers(OLDEST_TORCH):
        raise EnvironmentFault(
            _("The torch of this machine is too old for danlu."),
            why=_("{python} has torch {torch}; danlu needs {oldest} or newer.").format(
                python=sys.executable, torch=torch, oldest=OLDEST_TORCH
            ),
            fix=_("Start from an image with a newer pair, such as {image}").format(
                image=TORCH_NPU_IMAGE
            ),
        )
    kept = {
        name: version
        for name, version in installed.items()
        if numbers(version) >= numbers(_KEPT[name])
    }
    return TorchChoice(
        reason=_("torch: {torch} with torch_npu {torch_npu}, which are here and stay").format(
            torch=torch, torch_npu=torch_npu
        ),
        pip_words=tuple(pip_words),
        requirements=tuple(BUILDS["ascend"]["cann_python"]),
        pins={**_pins_of(BUILDS["ascend"]["cann_python"]), **kept},
        sees_system=True,
        free_gib=BUILDS["cpu"]["free_gib"],
    )


def _new_pair(found: Cards, python: tuple[int, int], find: Finder) -> TorchChoice:
    cann = found.toolkit_version
    fits = pairs_for(cann, python)
    if not fits:
        home = AscendMachine().cann_home
        known = ", ".join(dict.fromkeys(pair.cann for pair in USABLE_PAIRS))
        raise EnvironmentFault(
            _("There is no torch_npu for this machine's CANN."),
            why=_(
                "CANN {found} in {home}, Python {python}; danlu's table has CANN {known}."
            ).format(
                found=cann or _("not found"),
                home=home or "/usr/local/Ascend",
                python=".".join(map(str, python)),
                known=known,
            ),
            fix=_("Start from an image with a newer pair, such as {image}").format(
                image=TORCH_NPU_IMAGE
            ),
        )
    pair = fits[0]
    url, words = _cpu_words(pair.torch, find)
    cann_python = BUILDS["ascend"]["cann_python"]
    return TorchChoice(
        reason=_("torch: {torch} with torch_npu {torch_npu} for CANN {cann}, from {url}").format(
            torch=pair.torch, torch_npu=pair.torch_npu, cann=cann, url=url or "pip"
        ),
        pip_words=words,
        # torch_npu asks for these two as it runs; its metadata did not always say so.
        requirements=(f"torch-npu=={pair.torch_npu}", "numpy", "pyyaml", *cann_python),
        pins={
            **_pins_of(cann_python),
            "torch": pair.torch + ("+cpu" if url else ""),
            "torch-npu": pair.torch_npu,
        },
        free_gib=BUILDS["ascend"]["free_gib"],
    )


def _cuda_build(
    found: Cards, torch: str, find: Finder, capabilities: Sequence[tuple[int, int]]
) -> TorchChoice:
    # Without a driver the card is elsewhere, as where an image is built: the newest build.
    driver = numbers(found.driver)[:1] or (BUILDS["cuda"][0]["min_driver"],)
    card = found.cards[0].name if found.cards else _("a card that is elsewhere")
    with_kernels = [build for build in BUILDS["cuda"] if _runs_on(build, capabilities)]
    fits = [build for build in with_kernels if driver >= (build["min_driver"],)]
    for build in fits:
        url = find(build["indexes"], torch, f"cu{build['cuda'].replace('.', '')}")
        if url or not build["indexes"]:
            return TorchChoice(
                reason=_("torch: the build for CUDA {cuda} from {url} ({card})").format(
                    cuda=build["cuda"], url=url or _("pip's own index"), card=card
                ),
                pip_words=("--extra-index-url", url) if url else (),
                pins={"torch": f"{torch}+cu{build['cuda'].replace('.', '')}"} if url else {},
                free_gib=build["free_gib"],
            )
    raise _no_cuda_build(found.driver, card, with_kernels, fits)


def _runs_on(build: Mapping[str, Any], capabilities: Sequence[tuple[int, int]]) -> bool:
    return all(has_kernels(each, tuple(build["built_for"])) for each in capabilities)


def _no_cuda_build(
    driver: str, card: str, with_kernels: Sequence[Mapping[str, Any]], fits: Sequence[object]
) -> EnvironmentFault:
    """Say whether the card, its driver or the network is at fault."""
    without = f'PIP_ARGS="--extra-index-url {BUILDS["cpu"]["indexes"][0]}" {AGAIN}'
    if not with_kernels:
        return EnvironmentFault(
            _("There is no torch that runs on this card."),
            why=_("No build of torch has kernels for {card}.").format(card=card),
            fix=_("Without the card: {command}").format(command=without),
        )
    oldest = min(build["min_driver"] for build in with_kernels)
    why = (
        _("Driver {driver} is older than the builds with kernels for {card} need ({oldest}).")
        if not fits
        else _("{card} with driver {driver} needs an older build, and its index does not answer.")
    )
    return EnvironmentFault(
        _("There is no torch that runs with this driver."),
        why=why.format(driver=driver, card=card, oldest=oldest),
        fix=_("Update the driver to {newest} or newer; without the card: {command}").format(
            newest=max(build["min_driver"] for build in with_kernels), command=without
        ),
    )


def _cpu_words(torch: str, find: Finder) -> tuple[str | None, tuple[str, ...]]:
    url = find(BUILDS["cpu"]["indexes"], torch, "cpu")
    return url, ("--extra-index-url", url) if url else ()


def _pins_of(requirements: Sequence[str]) -> dict[str, str]:
    pairs = (requirement.partition("==")[::2] for requirement in requirements)
    return {name: version for name, version in pairs if version}
