"""What the doctor asks of a machine on which there is anything of Ascend.

Each looks at one part; why the whole does not work, where it does not, is `npu`'s to say.
"""

from __future__ import annotations

import shlex
from collections import Counter

from danlu.device.ascend import causes
from danlu.device.ascend.chips import chip_named
from danlu.device.ascend.versions import CANN_IMAGE, numbers, oldest_driver
from danlu.doctor.surroundings import Surroundings
from danlu.doctor.verdicts import Check, green, hint, red
from danlu.environment import ALLOCATORS
from danlu.language import _
from danlu.units import readable_bytes

# Less than this share of a chip's memory free: somebody else computes on it.
_BUSY = 0.5


def chip(found: Surroundings) -> Check:
    """Which chips there are, whether they are well, and what they can do."""
    denied = causes.access_denied(found.situation)
    if denied is not None:
        return red(denied.reason, denied.fix)
    names = [card.name for card in found.npus] or [found.torch.npu] * bool(found.torch.npu)
    if not names:
        return _nameless(found)
    ill = [n for n, card in enumerate(found.npus) if card.health not in ("", "OK")]
    counts = Counter(names)
    text = ", ".join(f"{count} x {name}" for name, count in counts.items())
    if ill:
        text = _("{chips}; the health of chip {number} is {health}.").format(
            chips=text, number=ill[0], health=found.npus[ill[0]].health
        )
        return red(text, f"npu-smi info -t health -i {ill[0]}")
    family = chip_named(found.torch.npu or names[0])
    if family is None or family.can_train:
        return green(text)
    if family.can_answer:
        return hint(causes.no_training(text))
    refused = causes.chip_refused(found.situation, family, text)
    return red(refused.reason, refused.fix)


def _nameless(found: Surroundings) -> Check:
    """Say what keeps npu-smi from naming the chips: danlu does not need it, but its words help."""
    smi, count = found.npu_smi, len(found.machine.nodes)
    text = _("{count} by /dev, whose names are not known: {problem}")
    if smi.hangs:
        problem = _("npu-smi does not answer.")
        return red(text.format(count=count, problem=problem), "sudo dmesg | grep -i davinci | tail")
    if not smi.is_there:
        problem = _("npu-smi is not here.")
        repair = _("Start the container with docker run {options}").format(
            options="-v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro "
            "-v /usr/local/dcmi:/usr/local/dcmi:ro"
        )
        return hint(text.format(count=count, problem=problem), repair)
    said = smi.problem or next(iter(smi.text.strip().splitlines()[-1:]), "")
    problem = _("npu-smi says: {words}").format(words=said)
    return hint(text.format(count=count, problem=problem), "npu-smi info")


def hbm(found: Surroundings) -> Check | None:
    """How much of the first chip's memory is free."""
    free, total = found.torch.npu_memory
    if not total and found.npus:
        card = found.npus[0]
        free, total = card.memory_bytes - card.used_bytes, card.memory_bytes
    if not total:
        return None
    text = _("{free} free of {total}").format(
        free=readable_bytes(free), total=readable_bytes(total)
    )
    return hint(text, "npu-smi info") if free < _BUSY * total else green(text)


def driver(found: Surroundings) -> Check:
    """Whether the driver is here, and new enough for CANN."""
    machine = found.machine
    if not machine.has_driver:
        repair = (
            _("Start the container with docker run {options}").format(options=causes.DOCKER_DRIVER)
            if machine.is_container
            else _("Install the driver and the firmware of this chip, then: npu-smi info")
        )
        text = _("There is no {folder}.").format(folder=machine.root / "driver")
        return red(text, repair)
    if not machine.driver:
        file = machine.root / "driver" / "version.info"
        return hint(_("{file} says no version.").format(file=file), f"cat {file}")
    oldest = oldest_driver(machine.cann)
    if oldest and numbers(machine.driver) < numbers(oldest):
        text = _("{driver}; CANN {cann} needs {oldest} or newer.").format(
            driver=machine.driver, cann=machine.cann, oldest=oldest
        )
        return red(
            text, _("Update the driver and the firmware, or take an image with an older CANN.")
        )
    return green(machine.driver)


def firmware(found: Surroundings) -> Check:
    """Whether the firmware is one that the driver names."""
    machine = found.machine
    version, allowed = machine.firmware, machine.firmware_range
    if not version:
        return green(_("not to be seen from here: npu-smi info -t board -i 0"))
    if allowed and not numbers(allowed[0]) <= numbers(version)[:3] <= numbers(allowed[1]):
        text = _("{firmware}; driver {driver} goes with {oldest} to {newest}.").format(
            firmware=version, driver=machine.driver, oldest=allowed[0], newest=allowed[1]
        )
        return red(text, _("Install the firmware that belongs to the driver, then: npu-smi info"))
    return green(version)


def cann(found: Surroundings) -> Check:
    """Whether CANN is installed and known to this shell."""
    machine = found.machine
    home, version = machine.cann_home, machine.cann or _("of an unknown version")
    if home is None or not (home.is_dir() or machine.set_env):
        return red(
            _("CANN is not installed in {root}.").format(root=machine.root),
            _("Install CANN's toolkit, or start from an image with it, such as {image}").format(
                image=CANN_IMAGE
            ),
        )
    text = _("{version} in {folder}").format(version=version, folder=home)
    if machine.sourced_home is not None and machine.sourced_home.is_dir():
        return green(text)
    if found.torch.npu:  # the paths are known in another way
        return green(text)
    text = _("{cann}; its set_env.sh was not read in this shell.").format(cann=text)
    script = machine.set_env or home / "set_env.sh"
    return red(text, f"source {shlex.quote(str(script))}")


def nnal(found: Surroundings) -> Check:
    """Whether NNAL is here, which vllm-ascend needs, not danlu."""
    version = found.machine.nnal
    if version:
        return green(version)
    return hint(_("not installed; only vllm-ascend needs it"))


def torch_npu(found: Surroundings) -> Check:
    """Whether torch_npu is there, and goes with torch and CANN."""
    situation = found.situation
    version, wrong = situation.torch_npu, causes.mismatch_text(situation)
    if not version and (found.torch.trouble is None or _is_missing(found)):
        return red(_("torch_npu is not installed."), causes.install_command(situation))
    if not wrong:
        return green(version or _("of an unknown version"))
    repair = causes.install_command(situation)
    return hint(wrong, repair) if found.torch.npu else red(wrong, repair)


def _is_missing(found: Surroundings) -> bool:
    trouble = found.torch.trouble
    return trouble is not None and trouble.cause in ("torch_npu_missing", "no_ascend")


def npu(found: Surroundings) -> Check:
    """Whether danlu computes on the chip; else the cause, as the other commands say it."""
    if found.torch.npu:
        return green(_("danlu computes on {name}").format(name=found.torch.npu))
    if found.torch.trouble is not None:
        return red(found.torch.trouble.reason, found.torch.trouble.fix)
    text = _("Nobody can tell, since torch cannot be loaded.")
    return red(text, causes.install_command(found.situation))


def settings(found: Surroundings) -> Check | None:
    """Whether variables of the user's make torch_npu slow, wrong, or end at once."""
    environ = found.machine.environ
    if all(name in environ for name in ALLOCATORS):
        text = _("{names} are both set: torch_npu ends the process.").format(
            names=", ".join(ALLOCATORS)
        )
        return red(text, f"unset {ALLOCATORS[0]}")
    if environ.get("INF_NAN_MODE_ENABLE") == "0":
        text = _("{variable} is 0: an overflow in training would never be seen.")
        return red(text.format(variable="INF_NAN_MODE_ENABLE"), "unset INF_NAN_MODE_ENABLE")
    if environ.get("ASCEND_LAUNCH_BLOCKING") == "1":
        text = _("{variable} is 1: every operation is waited for, which is slow.")
        return hint(text.format(variable="ASCEND_LAUNCH_BLOCKING"), "unset ASCEND_LAUNCH_BLOCKING")
    if environ.get("TASK_QUEUE_ENABLE") == "2":
        text = _("{variable} is 2: torch_npu captures no graphs, so answers come more slowly.")
        return hint(text.format(variable="TASK_QUEUE_ENABLE"), "unset TASK_QUEUE_ENABLE")
    return None
