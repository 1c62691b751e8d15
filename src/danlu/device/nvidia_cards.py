"""NVIDIA's cards as data: what drivers call them, and what their data sheets say. No torch here.

Names are those of nvidia-smi, which torch.cuda.get_device_name() returns too. Where they are from:
vLLM's and SGLang's file names of tuned kernels (which hold what torch returned), RunPod's list of
types, tables of nvidia-smi in issues of vLLM, and for the 5090 D what projects print of themselves.

Rates are dense products of 16-bit numbers that are added up in fp32: GeForce cards do these at half
the rate of the same chip in a workstation's card. Sources: NVIDIA's data sheets; for GeForce cards
its white papers on Turing, GA102, Ada and Blackwell RTX, and where these leave a card out
(RTX 3060, 3080 Ti, 3090 Ti, 4070 Ti SUPER, 4080 SUPER, 4090 D, 5070 Ti, A5000, PRO 6000, TITAN
RTX, Quadro RTX 8000), its multiprocessors and clock by the rates below. The RTX 5090 D is the
5090's rate by the ratio of both cards' published AI TOPS (2,375 to 3,352).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from danlu.language import _

# Which cards a process may use, and what brings all of them back.
_VISIBLE = "CUDA_VISIBLE_DEVICES"
SHOW_ALL_CARDS = f"unset {_VISIBLE}"
# The compute capability from which on cards multiply bfloat16.
AMPERE = (8, 0)
# That from which on they multiply fp8, at twice the rate of 16-bit numbers by every sheet below.
ADA = (8, 9)
FP8_RATIO = 2.0
# The first number of the compute capability of data centres' Blackwell cards, and of Thor's.
BLACKWELL, THOR = 10, 11


@dataclass(frozen=True, kw_only=True)
class NvidiaCard:
    """One card. entry: in the catalogue of devices; names: of the driver, without `NVIDIA`.

    gibibytes: memory as torch sees it. tera_flops: products of 16-bit numbers a second;
    gigabytes_per_s: of its memory. has_bf16: it multiplies bfloat16 itself; has_fp8: and fp8.
    nvlink: gigabytes per second that it sends to cards beside it; 0 where only PCIe connects them.
    """

    entry: str
    product: str
    names: tuple[str, ...]
    gibibytes: float
    tera_flops: float
    gigabytes_per_s: float
    has_bf16: bool = True
    has_fp8: bool = False
    nvlink: float = 0.0


def _card(
    entry: str,
    gibibytes: float,
    tera_flops: float,
    gigabytes_per_s: float,
    *names: str,
    product: str = "",
    has_bf16: bool = True,
    has_fp8: bool = False,
    nvlink: float = 0.0,
) -> NvidiaCard:
    return NvidiaCard(
        entry=entry,
        product=f"NVIDIA {product or names[0]}",
        names=names,
        gibibytes=gibibytes,
        tera_flops=tera_flops,
        gigabytes_per_s=gigabytes_per_s,
        has_bf16=has_bf16,
        has_fp8=has_fp8,
        nvlink=nvlink,
    )


NVIDIA_CARDS = (
    _card("b200-180g", 178.4, 2250, 8000, "B200", has_fp8=True, nvlink=900),
    _card("h200-141g", 139.7, 989, 4800, "H200", has_fp8=True, nvlink=450),
    _card("h200-nvl-141g", 139.7, 835, 4800, "H200 NVL", has_fp8=True),
    _card("h100-80g", 79.2, 989, 3350, "H100 80GB HBM3", product="H100", has_fp8=True, nvlink=450),
    _card("h100-pcie-80g", 79.2, 756, 2000, "H100 PCIe", has_fp8=True),
    _card("h100-nvl-94g", 93.1, 835, 3900, "H100 NVL", has_fp8=True),
    _card("h800-80g", 79.2, 989, 3350, "H800", has_fp8=True, nvlink=200),
    _card("h800-pcie-80g", 79.2, 756, 2000, "H800 PCIe", has_fp8=True),
    _card("h20-96g", 95.1, 148, 4000, "H20", has_fp8=True, nvlink=450),
    _card("h20-141g", 139.7, 148, 4800, "H20-3e", has_fp8=True, nvlink=450),
    _card("a100-80g", 79.2, 312, 2039, "A100-SXM4-80GB", product="A100", nvlink=300),
    _card("a100-pcie-80g", 79.2, 312, 1935, "A100 80GB PCIe", product="A100 PCIe"),
    _card("a100-40g", 39.4, 312, 1555, "A100-SXM4-40GB", "A100-PCIE-40GB", product="A100"),
    _card("a800-80g", 79.2, 312, 2039, "A800-SXM4-80GB", product="A800", nvlink=200),
    _card("a800-pcie-80g", 79.2, 312, 1935, "A800 80GB PCIe", product="A800 PCIe"),
    _card("a800-40g", 39.4, 312, 1555, "A800-SXM4-40GB", "A800 40GB Active", product="A800"),
    _card("l40s-48g", 44.4, 362, 864, "L40S", has_fp8=True),
    _card("l40-48g", 44.4, 181, 864, "L40", has_fp8=True),
    _card("l20-48g", 44.4, 119.5, 864, "L20", has_fp8=True),
    _card("l4-24g", 22.0, 121, 300, "L4", has_fp8=True),
    _card("a40-48g", 44.4, 149.7, 696, "A40"),
    _card("a30-24g", 23.6, 165, 933, "A30"),
    _card("a10-24g", 22.0, 125, 600, "A10"),
    _card("rtx-6000-ada-48g", 47.4, 364, 960, "RTX 6000 Ada Generation", has_fp8=True),
    _card("a6000-48g", 47.5, 154.8, 768, "RTX A6000"),
    _card("a5000-24g", 23.7, 111.1, 768, "RTX A5000"),
    _card(
        "rtx-pro-6000-96g",
        95.0,
        503.8,
        1792,
        "RTX PRO 6000 Blackwell Server Edition",
        "RTX PRO 6000 Blackwell Workstation Edition",
        product="RTX PRO 6000",
        has_fp8=True,
    ),
    _card("rtx-5090-32g", 31.4, 209, 1792, "GeForce RTX 5090", has_fp8=True),
    _card("rtx-5090-d-32g", 31.4, 148, 1792, "GeForce RTX 5090 D", has_fp8=True),
    _card("rtx-5090-d-v2-24g", 23.4, 148, 1344, "GeForce RTX 5090 D v2", has_fp8=True),
    _card("rtx-5080-16g", 15.5, 112.6, 960, "GeForce RTX 5080", has_fp8=True),
    _card("rtx-5070-ti-16g", 15.5, 87.9, 896, "GeForce RTX 5070 Ti", has_fp8=True),
    _card("rtx-4090-24g", 23.5, 165, 1008, "GeForce RTX 4090", has_fp8=True),
    _card("rtx-4090-d-24g", 23.5, 147, 1008, "GeForce RTX 4090 D", has_fp8=True),
    _card("rtx-4080-16g", 15.6, 97.5, 717, "GeForce RTX 4080", has_fp8=True),
    _card("rtx-4080-super-16g", 15.6, 104, 736, "GeForce RTX 4080 SUPER", has_fp8=True),
    _card("rtx-4070-ti-super-16g", 15.6, 88.2, 672, "GeForce RTX 4070 Ti SUPER", has_fp8=True),
    _card("rtx-3090-ti-24g", 23.6, 80, 1008, "GeForce RTX 3090 Ti"),
    _card("rtx-3090-24g", 23.6, 71, 936, "GeForce RTX 3090"),
    _card("rtx-3080-ti-12g", 11.6, 68, 912, "GeForce RTX 3080 Ti"),
    _card("rtx-3080-10g", 9.6, 59.5, 760, "GeForce RTX 3080"),
    _card("rtx-3060-12g", 11.6, 25.5, 360, "GeForce RTX 3060"),
    _card("v100s-32g", 31.7, 130, 1134, "Tesla V100S-PCIE-32GB", product="V100S", has_bf16=False),
    _card(
        "v100-32g",
        31.7,
        125,
        900,
        "Tesla V100-SXM2-32GB",
        product="V100",
        has_bf16=False,
        nvlink=150,
    ),
    _card(
        "v100-16g",
        15.8,
        125,
        900,
        "Tesla V100-SXM2-16GB",
        product="V100",
        has_bf16=False,
        nvlink=150,
    ),
    _card(
        "v100-pcie-32g", 31.7, 112, 900, "Tesla V100-PCIE-32GB", product="V100 PCIe", has_bf16=False
    ),
    _card(
        "v100-pcie-16g", 15.8, 112, 900, "Tesla V100-PCIE-16GB", product="V100 PCIe", has_bf16=False
    ),
    _card("t4-16g", 14.6, 65, 320, "Tesla T4", product="T4", has_bf16=False),
    _card("titan-rtx-24g", 23.6, 130.5, 672, "TITAN RTX", has_bf16=False),
    _card("rtx-8000-48g", 47.4, 130.5, 672, "Quadro RTX 8000", has_bf16=False),
    # Rented with 22 GiB too: then the same card with other memory.
    _card("rtx-2080-ti-11g", 10.6, 53.8, 616, "GeForce RTX 2080 Ti", has_bf16=False),
)


@dataclass(frozen=True, kw_only=True)
class CardProperties:
    """What a card says of itself. capability: its compute capability, such as (8, 6).

    clock_hz: of its multiprocessors at most; bytes_per_s: of its memory; 0 where nobody says.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    clock_hz: float = 0.0
    bytes_per_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    """What cards of a compute capability have in common.

    operations: of dense 16-bit products a multiprocessor and clock, added up in fp32;
    of_geforce: those of GeForce cards. The rest is for where a card does not say it itself.
    """

    operations: int
    of_geforce: int
    clock_hz: float
    bytes_per_s: float


# CUDA's programming guide and the white papers, checked against the sheets above: 82 x 1.695 GHz x
# 512 are the RTX 3090's 71 TFLOP/s, 132 x 1.83 GHz x 4096 the H100's 989.
_ARCHITECTURES = {
    (7, 0): _Architecture(operations=1024, of_geforce=1024, clock_hz=1.5e9, bytes_per_s=900e9),
    (7, 5): _Architecture(operations=1024, of_geforce=512, clock_hz=1.5e9, bytes_per_s=320e9),
    (8, 0): _Architecture(operations=2048, of_geforce=2048, clock_hz=1.4e9, bytes_per_s=1500e9),
    (8, 6): _Architecture(operations=1024, of_geforce=512, clock_hz=1.7e9, bytes_per_s=450e9),
    (8, 9): _Architecture(operations=1024, of_geforce=512, clock_hz=2.4e9, bytes_per_s=500e9),
    (9, 0): _Architecture(operations=4096, of_geforce=4096, clock_hz=1.7e9, bytes_per_s=3000e9),
    (10, 0): _Architecture(operations=8192, of_geforce=8192, clock_hz=1.8e9, bytes_per_s=7000e9),
    (12, 0): _Architecture(operations=1024, of_geforce=512, clock_hz=2.4e9, bytes_per_s=700e9),
}
# Before there were tensor cores: 128 multiplications and additions in fp32 (Pascal).
_OLDER = _Architecture(operations=256, of_geforce=256, clock_hz=1.5e9, bytes_per_s=300e9)


def has_tensor_cores(capability: tuple[int, int]) -> bool:
    """Whether cards of a compute capability multiply float16 faster than float32."""
    return capability >= (7, 0)


def rough_figures(card: CardProperties) -> tuple[float, float]:
    """Estimate operations of 16-bit products and bytes of memory a second from what a card says."""
    known = [each for each in _ARCHITECTURES if each <= card.capability]
    architecture = _ARCHITECTURES[max(known)] if known else _OLDER
    is_geforce = "GeForce" in card.name
    operations = architecture.of_geforce if is_geforce else architecture.operations
    clock = card.clock_hz or architecture.clock_hz
    return card.multiprocessors * clock * operations, card.bytes_per_s or architecture.bytes_per_s


def has_kernels(capability: tuple[int, int], built_for: tuple[str, ...]) -> bool:
    """Whether a torch that was `built_for` such architectures runs on a card.

    built_for: torch.cuda.get_arch_list(). Machine code (`sm_86`) runs on the same major version
    from its minor on, but `sm_90a` on that one only; what is kept as `compute_90` is compiled for a
    later card when it is loaded. An empty list says nothing, and counts as yes.
    """
    for each in built_for:
        kind, version = _architecture(each)
        if kind == "sm" and each[-1] == "a":
            runs = version == capability
        elif kind == "sm":
            runs = version[0] == capability[0] and version <= capability
        else:
            runs = version <= capability
        if runs:
            return True
    return not built_for


def is_newer_than(capability: tuple[int, int], built_for: tuple[str, ...]) -> bool:
    """Whether a card is newer than all that a torch was built for."""
    return all(capability > _architecture(each)[1] for each in built_for)


def _architecture(name: str) -> tuple[str, tuple[int, int]]:
    """Read a name such as sm_86, sm_100a or compute_90: its kind, and its version."""
    kind, _underscore, version = name.partition("_")
    digits = version.rstrip("af")
    return kind, (int(digits[:-1]), int(digits[-1]))


def hidden_cards(environ: Mapping[str, str], num_cards: int = 1) -> str | None:
    """Say that the environment leaves a process no card; None where it does not.

    num_cards: of the machine; where nobody knows, at least one. The first entry that there is not
    ends the list: CUDA's programming guide, on the variable.
    """
    value = environ.get(_VISIBLE)
    if value is None:
        return None
    first = value.partition(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")) or (first.isdigit() and int(first) < num_cards):
        return None
    return _("{setting} leaves no card to it.").format(setting=f'{_VISIBLE}="{value}"')


def named_alike(name: str, other: str) -> bool:
    """Whether two names of a driver mean the same card: older drivers leave out the maker."""
    return _bare(name) == _bare(other)


def _bare(name: str) -> str:
    return " ".join(name.split()).casefold().removeprefix("nvidia ")
