"""Why there is no NPU to compute on, and what repairs it: one function for each cause.

Knows what torch_npu says when it fails and how a machine should look. Loads and changes nothing.
Sources of the words: torch_npu's __init__.py (2023 to 2026), the loader of glibc (dlopen), CANN's
error codes EL0005 and 207004, and threads in which users met them: MinerU#2537, gpustack#3352,
vllm-ascend#2698, flagos-ai/vllm-plugin-FL#77.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass

from danlu.device.ascend.chips import Chip
from danlu.device.ascend.machine import AscendMachine, owner_of
from danlu.device.ascend.versions import (
    CANN_IMAGE,
    CPU_INDEX,
    TORCH_NPU_IMAGE,
    USABLE_PAIRS,
    Pair,
    cann_of,
    is_of,
    pair_of,
    pairs_for,
    release,
)
from danlu.language import _
from danlu.program import own_pip
from danlu.reasons import library_reason

# What `docker run` needs for one chip.
DOCKER_NODES = (
    "--device /dev/davinci0 --device /dev/davinci_manager --device /dev/devmm_svm "
    "--device /dev/hisi_hdc"
)
DOCKER_DRIVER = (
    "-v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro -v /usr/local/dcmi:/usr/local/dcmi:ro "
    "-v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro"
)
_VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
# Libraries that the driver brings; all others are CANN's.
_OF_THE_DRIVER = ("libascend_hal", "libdrvdsmi", "libdcmi", "libmmpa")
# The name of a package where it differs from that of its module.
_PACKAGES = {"yaml": "pyyaml", "google": "protobuf", "attr": "attrs", "pkg_resources": "setuptools"}


@dataclass(frozen=True, kw_only=True)
class NpuTrouble:
    """Why no NPU can be used. cause: its name for programs. reason: for people, whole sentences.

    fix: the command or edit that repairs it. said: torch_npu's own words. is_expected: somebody
    expects an NPU here, since there is one or torch_npu is installed.
    """

    cause: str
    reason: str
    fix: str
    said: str = ""
    is_expected: bool = True


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is known when an NPU is not to be had.

    torch, torch_npu: their versions, empty where there is none. is_cuda_build: of torch. said: what
    torch_npu said when it was loaded or asked, empty where it was not.
    """

    machine: AscendMachine
    torch: str
    torch_npu: str = ""
    is_cuda_build: bool = False
    said: str = ""

    def trouble(self, cause: str, reason: str, fix: str, *, is_expected: bool = True) -> NpuTrouble:
        """Name the cause."""
        return NpuTrouble(
            cause=cause, reason=reason, fix=fix, said=self.said, is_expected=is_expected
        )


def not_installed(found: Situation) -> NpuTrouble:
    """There is no torch_npu."""
    if not found.machine.nodes:
        return found.trouble(
            "no_ascend",
            _("There is no torch_npu, and no Ascend that this process could use."),
            _("Leave out --device; the best one is chosen."),
            is_expected=False,
        )
    return found.trouble(
        "torch_npu_missing",
        _("An Ascend is here ({node}), but torch_npu is not installed.").format(
            node=found.machine.nodes[0]
        ),
        install_command(found),
    )


def loading_failed(found: Situation) -> NpuTrouble:
    """torch_npu could not be imported: say why, by its words."""
    return _by_words(found) or _mismatch(found) or _unknown(found)


def no_device(found: Situation) -> NpuTrouble:
    """torch_npu was loaded, and has no device to compute on."""
    return access_denied(found) or _by_words(found) or _mismatch(found) or _unknown(found)


def access_denied(found: Situation) -> NpuTrouble | None:
    """Say what keeps this process from the chips, by the machine's files alone."""
    looks = (_hidden, _without_nodes, _without_managers, _without_permission)
    return next(filter(None, (look(found) for look in looks)), None)


def chip_refused(found: Situation, chip: Chip, name: str) -> NpuTrouble:
    """The chip cannot compute what danlu asks for."""
    return found.trouble(
        "chip_refused",
        _(
            "danlu does not compute on {name} ({family}): it has no bfloat16, and an overflow is "
            "never seen, since the largest number takes its place."
        ).format(name=name, family=chip.family),
        _("Rent a 910B or 910C, or use --device cpu"),
    )


def no_training(name: str) -> str:
    """Say why a chip for inference does not train."""
    return _(
        "{name} is a chip for inference: without bfloat16, and an overflow in training would never "
        "be seen."
    ).format(name=name)


def install_command(found: Situation) -> str:
    """Write the command that installs a torch and a torch_npu that go together, and with CANN."""
    pair = _wanted(found)
    if pair is None:
        return _("Start from an image with a newer pair, such as {image}").format(
            image=TORCH_NPU_IMAGE
        )
    words = [own_pip(), "install", f"torch-npu=={pair.torch_npu}"]
    if found.is_cuda_build or release(found.torch) != pair.torch:
        words += [f"torch=={pair.torch}+cpu", "--extra-index-url", CPU_INDEX]
    return " ".join(words)


def _wanted(found: Situation) -> Pair | None:
    """Return the pair to install: for the torch and the CANN that are here, else for that CANN."""
    cann = found.machine.cann
    own = pair_of(found.torch, cann)
    if own in USABLE_PAIRS:
        return own
    return next(iter(pairs_for(cann, sys.version_info[:2])), None)


def mismatch_text(found: Situation) -> str:
    """Say that torch, torch_npu and CANN do not go together; empty where they do, or may.

    A torch_npu that the table does not know may go with any CANN.
    """
    if not found.torch_npu:
        return ""
    cann, wanted = found.machine.cann, cann_of(found.torch_npu)
    if release(found.torch) != release(found.torch_npu):
        return _("torch_npu {torch_npu} is for torch {wanted}, and torch is {torch}.").format(
            torch_npu=found.torch_npu, wanted=release(found.torch_npu), torch=found.torch
        )
    if cann and wanted and not is_of(cann, wanted):
        return _("torch_npu {torch_npu} is for CANN {wanted}, and CANN is {cann}.").format(
            torch_npu=found.torch_npu, wanted=wanted, cann=cann
        )
    return ""


def _mismatch(found: Situation, _match: re.Match[str] | None = None) -> NpuTrouble | None:
    """Versions do not go together, by the table, or by what the loader says."""
    text = mismatch_text(found)
    if not text and _match is None:
        return None
    reason = text or _(
        "torch {torch}, torch_npu {torch_npu} and CANN {cann} do not go together: {words}"
    ).format(
        torch=found.torch,
        torch_npu=found.torch_npu or _("of an unknown version"),
        cann=found.machine.cann or _("of an unknown version"),
        words=_words(found),
    )
    return found.trouble("versions", reason, install_command(found))


def _beside_another(found: Situation, match: re.Match[str]) -> NpuTrouble:
    """torch is built for another accelerator, such as CUDA."""
    reason = _(
        "torch {torch} is built for {other}, and torch_npu refuses to be loaded beside that."
    ).format(torch=found.torch, other=match["other"])
    if not found.machine.is_ascend:
        return found.trouble("another_accelerator", reason, f"{own_pip()} uninstall torch-npu")
    return found.trouble("another_accelerator", reason, install_command(found))


def _old_setuptools(found: Situation, _match: re.Match[str]) -> NpuTrouble:
    """A part of torch_npu still imports pkg_resources, which newer setuptools do not bring."""
    return found.trouble(
        "pkg_resources",
        _("torch_npu needs pkg_resources, which setuptools 81 and newer do not bring."),
        f"{own_pip()} install 'setuptools<81'",
    )


def _package_missing(found: Situation, match: re.Match[str]) -> NpuTrouble | None:
    """torch_npu needs another package, which its metadata did not always say."""
    name = match["module"].partition(".")[0]
    if name in ("torch_npu", "torch"):
        return _mismatch(found, match)
    return found.trouble(
        "package_missing",
        _("torch_npu needs the package {name}, which is not installed.").format(name=name),
        f"{own_pip()} install {_PACKAGES.get(name, name)}",
    )


def _nnal_missing(found: Situation, match: re.Match[str]) -> NpuTrouble:
    """NNAL's libatb.so is not found."""
    script = found.machine.nnal_set_env
    if script.is_file():
        reason = _("{library} is not found: NNAL's set_env.sh was not read in this shell.")
        fix = f"source {shlex.quote(str(script))}"
    else:
        reason = _("{library} is not found: NNAL is not installed.")
        fix = _("Install NNAL for CANN {cann}, or start from an image with it, such as {image}")
    return found.trouble(
        "nnal",
        reason.format(library=match["library"]),
        fix.format(cann=found.machine.cann, image=CANN_IMAGE),
    )


def _library_missing(found: Situation, match: re.Match[str]) -> NpuTrouble | None:
    """A library of the driver or of CANN is not found."""
    library, machine = match["library"], found.machine
    if library.startswith(("libtorch", "libc10")):
        return _mismatch(found, match)
    if library.startswith(_OF_THE_DRIVER):
        return _driver_library(found, library)
    sourced, script = machine.sourced_home, machine.set_env
    if sourced is not None and sourced.is_dir():
        return found.trouble(
            "cann_incomplete",
            _("{library} is not found, though set_env.sh of {home} was read: CANN is incomplete.")
            .format(library=library, home=sourced),
            _("Install CANN {cann} again, or start from an image with it, such as {image}").format(
                cann=machine.cann, image=CANN_IMAGE
            ),
        )  # fmt: skip
    if script is not None:
        return found.trouble(
            "not_sourced",
            _("{library} is not found: CANN's set_env.sh was not read in this shell.").format(
                library=library
            ),
            f"source {shlex.quote(str(script))}",
        )
    if not machine.is_ascend:
        return found.trouble(
            "no_cann",
            _("{library} is not found: torch_npu is installed, but neither driver nor CANN.")
            .format(library=library),
            f"{own_pip()} uninstall torch-npu",
        )  # fmt: skip
    return found.trouble(
        "no_cann",
        _("{library} is not found: CANN is not installed in {root}; the driver is not enough.")
        .format(library=library, root=machine.root),
        _("Install CANN's toolkit, or start from an image with it, such as {image}").format(
            image=CANN_IMAGE
        ),
    )  # fmt: skip


def _driver_library(found: Situation, library: str) -> NpuTrouble:
    root = found.machine.root
    if found.machine.has_driver:
        folders = f"{root}/driver/lib64/common:{root}/driver/lib64/driver"
        return found.trouble(
            "driver_not_found",
            _("{library} of the driver is not found; the driver is in {folder}.").format(
                library=library, folder=root / "driver"
            ),
            f"export LD_LIBRARY_PATH={folders}:$LD_LIBRARY_PATH",
        )
    return found.trouble(
        "no_driver",
        _("{library} is not found: {folder} is not here.").format(
            library=library, folder=root / "driver"
        ),
        _("Start the container with docker run {options}").format(options=DOCKER_DRIVER)
        if found.machine.is_container
        else _("Install the driver and the firmware of this chip, then: npu-smi info"),
    )


def _busy(found: Situation, _match: re.Match[str]) -> NpuTrouble:
    """Another program or container has the chip."""
    return found.trouble(
        "busy",
        _("The chip is in use by another program or container: {words}").format(
            words=_words(found)
        ),
        _("See with npu-smi info who uses it and end that, or choose another: {command}").format(
            command=f"export {_VISIBLE}=1"
        ),
    )


def _hidden(found: Situation) -> NpuTrouble | None:
    """The variable that chooses chips names none that is here."""
    value = found.machine.environ.get(_VISIBLE)
    nodes = found.machine.nodes
    if value is None or not nodes:
        return None
    largest = max(len(nodes), *(_number(node.name) + 1 for node in nodes))
    named = [word.strip() for word in value.split(",")]
    if any(word.isdigit() and int(word) < largest for word in named):
        return None
    return found.trouble(
        "hidden",
        _("{variable} is {value!r}: it hides every chip; there are {count}.").format(
            variable=_VISIBLE, value=value, count=len(nodes)
        ),
        f"unset {_VISIBLE}",
    )


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


def _without_nodes(found: Situation) -> NpuTrouble | None:
    """The process is given no chip."""
    machine = found.machine
    if machine.nodes:
        return None
    if machine.is_container:
        return found.trouble(
            "no_node",
            _("This container has no chip: there is no {node}.").format(
                node=machine.dev / "davinci0"
            ),
            _("Start the container with docker run {options}").format(options=DOCKER_NODES),
        )
    return found.trouble(
        "no_node",
        _("There is no {node}: this machine has no Ascend, or its driver is not loaded.").format(
            node=machine.dev / "davinci0"
        ),
        _("Install the driver and the firmware of this chip, then: npu-smi info"),
    )


def _without_managers(found: Situation) -> NpuTrouble | None:
    """A chip is there, but not the nodes through which it is driven."""
    missing = found.machine.missing_managers
    if not missing:
        return None
    names = ", ".join(map(str, missing))
    if found.machine.is_container:
        options = " ".join(f"--device {node}" for node in missing)
        fix = _("Start the container with docker run {options}").format(options=options)
    else:
        fix = _("Install the driver and the firmware of this chip, then: npu-smi info")
    return found.trouble(
        "no_manager",
        _("The nodes {names} are missing, without which no chip can be used.").format(names=names),
        fix,
    )


def _without_permission(found: Situation) -> NpuTrouble | None:
    """The user may not open the nodes."""
    closed = found.machine.closed_nodes
    return _no_permission(found) if closed else None


def _no_permission(found: Situation, _match: re.Match[str] | None = None) -> NpuTrouble:
    machine = found.machine
    closed = machine.closed_nodes
    if not closed:  # the rights are there, but the container keeps it from the devices
        return found.trouble(
            "permission",
            _("This container may not use the chip: {words}").format(words=_words(found)),
            _("Start the container with docker run {options}").format(
                options=f"{DOCKER_NODES} --privileged"
            ),
        )
    owner, group = owner_of(closed[0])
    return found.trouble(
        "permission",
        _("You may not open {node}: it belongs to {owner}, group {group}.").format(
            node=closed[0], owner=owner, group=group
        ),
        _("Join the group, then log in again: {command}").format(
            command=f"sudo usermod -aG {group} $USER"
        ),
    )


def _unknown(found: Situation) -> NpuTrouble:
    """No cause that is known: quote torch_npu."""
    if not found.said:
        reason = _("torch_npu is loaded, but finds no chip that it can use.")
        return found.trouble("unknown", reason, "npu-smi info")
    return found.trouble(
        "unknown",
        _("torch_npu does not work: {words}").format(words=_words(found)),
        "danlu doctor",
    )


def _words(found: Situation) -> str:
    """Return the line in which torch_npu says what is wrong: the last one that names an error."""
    lines = [line.strip() for line in found.said.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(?:Error|Exception|Exit)\b", line)]
    line = (named or lines or [""])[-1]
    return library_reason(line if len(line) <= 300 else f"{line[:300]} ...")


# In this order: the first that fits is the cause.
_Named = Callable[[Situation, "re.Match[str]"], "NpuTrouble | None"]
_WORDS: tuple[tuple[str, _Named], ...] = (
    (r"No module named '(?P<module>pkg_resources)'", _old_setuptools),
    (r"Two accelerators cannot be used [^:]*: npu and (?P<other>(?!npu)\w+)", _beside_another),
    (r"(?P<library>libatb[\w.+-]*): cannot open shared object", _nnal_missing),
    (r"(?P<library>lib[\w.+-]*\.so[\w.]*): cannot open shared object", _library_missing),
    (r"undefined symbol|No module named 'torch_npu\._C'|cannot import name '_C'", _mismatch),
    (r"has no attribute '_autoload'", _mismatch),
    (r"No module named '(?P<module>[\w.]+)'", _package_missing),
    (r"EL0005|[Rr]esources? (?:are|is) busy|device is used|-8020", _busy),
    (r"[Pp]ermission denied|[Oo]peration not permitted", _no_permission),
)


def _by_words(found: Situation) -> NpuTrouble | None:
    for pattern, cause in _WORDS:
        match = re.search(pattern, found.said)
        trouble = cause(found, match) if match else None
        if trouble is not None:
            return trouble
    return None
