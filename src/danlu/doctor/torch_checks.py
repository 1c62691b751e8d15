"""What the doctor asks of torch, on any machine, and of NVIDIA's cards."""

from __future__ import annotations

from danlu.device.ascend.causes import install_command
from danlu.device.ascend.versions import INDEXES, OLDEST_TORCH, numbers
from danlu.device.nvidia_cards import SHOW_ALL_CARDS, hidden_cards
from danlu.doctor.surroundings import Surroundings
from danlu.doctor.verdicts import Check, green, hint, red
from danlu.environment import AUTOLOAD
from danlu.language import _
from danlu.program import own_pip

# It takes the build that has kernels for the card and runs with its driver, or says what lacks.
_INSTALL = "bash scripts/install.sh"
# How torch says that it dies of a package which it loads by itself.
_AUTOLOADING = "Failed to load the backend extension"


def torch(found: Surroundings) -> Check:
    """Whether torch is there, can be loaded and is new enough."""
    version = found.torch_version or found.torch.version
    if not version:
        return red(_("torch is not installed."), _install_command(found))
    if found.torch.problem:
        text = _("torch {version} cannot be loaded: {problem}").format(
            version=version, problem=found.torch.problem
        )
        if _AUTOLOADING in found.torch.problem:  # its user has switched that on
            return red(text, f"unset {AUTOLOAD}")
        return red(text, f"{own_pip()} install --force-reinstall {_exactly(version)}")
    if numbers(version) < numbers(OLDEST_TORCH):
        text = _("torch {version}; danlu needs {oldest} or newer.").format(
            version=version, oldest=OLDEST_TORCH
        )
        return red(text, _install_command(found))
    return green(version)


def _install_command(found: Surroundings) -> str:
    """Write what installs a torch that fits: for Ascend one of a pair, with a card PyPI's."""
    if found.has_ascend:
        return install_command(found.situation)
    words = f"{own_pip()} install 'torch>={OLDEST_TORCH}'"
    return words if found.gpus else f"{words} --extra-index-url {INDEXES}/cpu"


def _exactly(version: str) -> str:
    """Write pip's words for a build: 2.13.0+cpu is not on PyPI."""
    build = version.partition("+")[2]
    return f"torch=={version}" + (f" --extra-index-url {INDEXES}/{build}" if build else "")


def cpu(found: Surroundings) -> Check | None:
    """Which instructions torch computes with on the CPU."""
    capability = found.torch.capability
    if not capability:
        return None
    if capability == "DEFAULT" and found.architecture == "x86_64":
        text = _("torch uses neither AVX2 nor AVX512: computing on this CPU is very slow.")
        return hint(text, "lscpu | grep -i avx")
    return green(_("torch computes with {capability}").format(capability=capability))


def gpu(found: Surroundings) -> Check | None:
    """Whether torch sees the cards that nvidia-smi shows, and computes with them."""
    if found.gpus is None:
        return None
    text = _("{names}, driver {driver}").format(names=found.gpus.names, driver=found.gpus.driver)
    if found.torch.without_kernels:
        return red(
            _("{cards}; torch {version} has no kernels for {names}.").format(
                cards=text,
                version=found.torch.version,
                names=", ".join(dict.fromkeys(found.torch.without_kernels)),
            ),
            _INSTALL,
        )
    if found.torch.cuda or found.torch.problem:
        return green(text)
    unseen = _("{cards}; torch {version} sees none of them.").format(
        cards=text, version=found.torch.version
    )
    hidden = hidden_cards(found.machine.environ, len(found.gpus.cards))
    if hidden is not None and found.torch.is_cuda_build:
        return red(f"{unseen} {hidden}", SHOW_ALL_CARDS)
    return red(unseen, _INSTALL)


def torch_npu_alone(found: Surroundings) -> Check | None:
    """Whether torch_npu is installed on a machine that has nothing for it."""
    if found.has_ascend or not found.torch_npu_version or found.torch.trouble is None:
        return None
    return hint(found.torch.trouble.reason, found.torch.trouble.fix)
