"""Memory and speed of devices, as data, also of those that this machine lacks. No torch here.

The figures are the makers' (dense 16-bit matrix products, memory, bandwidth), from their data
sheets; NVIDIA's are in `nvidia_cards.py`. An Ascend that is sold as "64 GB" has 64 GiB. Of both
rates products and everything else reach a share, an assumption until a probe has measured it.
Predictions of a device from this page alone are rough, and say so.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from danlu.device.nvidia_cards import (
    ADA,
    AMPERE,
    FP8_RATIO,
    NVIDIA_CARDS,
    CardProperties,
    NvidiaCard,
    has_tensor_cores,
    named_alike,
    rough_figures,
)
from danlu.device.variants import (
    FLASH3,
    FLASH4,
    NATIVE,
    AttentionFacts,
    attention_facts,
    fused_by,
)

_PLAIN = AttentionFacts()
GB = 10**9
GIB = 2**30
# What torch's FlashAttention 2 does in a second: measured on an H200, whose products did 709e12
# (docs/performance.md). No card is counted on for more.
_FLASH_FLOPS = 254e12
# How many times as fast FlashAttention 3 is, both ways: 579 and 542 TFLOP/s, forward and backward,
# where 2 does 319 and 310, on an H100 over rows of 4,096 with heads of 128, the backward pass
# without a causal mask (Shah et al. 2024, arXiv 2407.08608, figures 5 and 6; backward counts 2.5
# times). 4 takes as long as 3 on Hopper (ecmwf/anemoi-core, pull request 959: 74.1 and 74.3 ms both
# ways, 2 takes 142.3). Not measured by danlu.
_PACKAGED_FLASH = 1.77
# PCIe 4 with 16 lanes, of which 80 % are counted on; what no NVLink or HCCS connects uses that.
_PCIE_BANDWIDTH = 0.8 * 31.5e9
# The share of the sheet's bandwidth that is counted on.
REACHED_BANDWIDTH = 0.8


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """One device, as planning sees it.

    memory_bytes: what can be allocated in all; context_bytes: what driver and libraries take of it.
    slack: share of what is kept for the backward pass that is lost between allocations.
    kernel_bytes: what a microstep adds, since libraries keep kernels for the sizes they meet;
    most_kernel_bytes: the limit of that. flops: operations of 16-bit matrix products per second;
    flops_fp32 likewise; achieved: the share of both that products reach. attention_flops: the most
    that attention reaches. bandwidth: bytes per
    second that are reached. launch_s: seconds of the host to start one operation. reread: share of
    reading weights again that is not hidden behind computing.
    attention: what attention keeps. fused: whose kernels norms, rotation and swiglu are, one each;
    empty where they are many operations.
    chunk_rows: sizes of a loss chunk worth trying.
    copies_matrix: a 16-bit product copies its matrix into an order of its own while it runs.
    packs: frozen matrices can be kept in that order, for the product and for its gradient.
    published: speeds that others have measured on it, with their source. has_bf16: it multiplies
    bfloat16; else float16. is_rough: it is in no data sheet here, and flops and bandwidth are
    estimated. fp8_ratio: how often an fp8 product is done while one of 16 bits is; 0: it has none.
    link_bandwidth: bytes per second that a device sends to those beside it while it receives as
    many. group_bytes: what the buffers for that take.
    """

    name: str
    kind: str
    description: str
    memory_bytes: int
    context_bytes: int
    slack: float = 0.03
    kernel_bytes: int = 0
    most_kernel_bytes: int = 0
    flops: float
    flops_fp32: float
    achieved: float = 0.65
    attention_flops: float = math.inf
    bandwidth: float
    launch_s: float
    reread: float = 1.0
    attention: AttentionFacts = _PLAIN
    fused: str = ""
    chunk_rows: tuple[int, ...] = (256, 512, 1024)
    copies_matrix: bool = False
    packs: bool = False
    published: tuple[str, ...] = ()
    has_bf16: bool = True
    is_rough: bool = False
    fp8_ratio: float = 0.0
    link_bandwidth: float = _PCIE_BANDWIDTH
    group_bytes: int = 512 * 2**20

    def fused_in(self, number_bytes: int) -> str:
        """Return whose kernels they are where the model computes in so many bytes."""
        return "" if self.fused == NATIVE and number_bytes > 2 else self.fused

    @property
    def has_host(self) -> bool:
        """Whether there is another memory, the host's, to put something aside."""
        return self.kind != "cpu"


def _card(
    name: str, product: str, gibibytes: float, tera_flops: float, gigabytes_per_s: float
) -> DeviceFacts:
    return DeviceFacts(
        name=name,
        kind="cuda",
        description=f"{product}, {gibibytes} GiB",
        memory_bytes=int(gibibytes * GIB),
        context_bytes=700 * 2**20,
        flops=tera_flops * 1e12,
        flops_fp32=tera_flops * 1e12 / 4,
        achieved=0.7,
        attention_flops=_FLASH_FLOPS,
        bandwidth=REACHED_BANDWIDTH * gigabytes_per_s * GB,
        launch_s=6e-6,
        attention=attention_facts("cuda"),
        fused=fused_by("cuda"),
    )


def _nvidia(card: NvidiaCard) -> DeviceFacts:
    facts = _card(card.entry, card.product, card.gibibytes, card.tera_flops, card.gigabytes_per_s)
    published = _ON_H100 if card.entry == "h100-80g" else ()
    facts = replace(facts, published=published, fp8_ratio=FP8_RATIO if card.has_fp8 else 0.0)
    if card.nvlink:
        facts = replace(facts, link_bandwidth=REACHED_BANDWIDTH * card.nvlink * GB)
    return _with_kernels(facts, has_bf16=card.has_bf16)


def _with_kernels(facts: DeviceFacts, *, has_bf16: bool) -> DeviceFacts:
    """Leave out what is made for cards with bfloat16 only, from Ampere on (`ops/nvidia`)."""
    if has_bf16:
        return replace(facts, has_bf16=True)
    return replace(facts, has_bf16=False, attention=attention_facts("cuda", "sdpa"), fused="")


_ON_ASCEND = (
    "Qwen3-8B, one stream: 38.7 tokens/s (vllm-ascend's performance page, card not named)",
    "7B, LoRA: 28 GB on one 910B3 (ms-swift's table; no speed is published)",
)
_ON_H100 = (
    "Qwen2.5-7B, LoRA on full rows: 14,110 tokens/s (NVIDIA NeMo AutoModel's table)",
    "Qwen3-8B, one stream: 146 tokens/s (vLLM)",
)


def _ascend(name: str, product: str, gibibytes: int, tera_flops: float) -> DeviceFacts:
    card = _card(name, product, gibibytes, tera_flops, 1400)
    return replace(
        card,
        kind="npu",
        context_bytes=int(1.5 * GIB),
        launch_s=12e-6,
        # HCCS: seven links of 56 GB/s, both directions together. HCCL_BUFFSIZE: twice 200 MB.
        link_bandwidth=REACHED_BANDWIDTH * 7 * 28 * GB,
        group_bytes=400 * 2**20,
        attention=attention_facts("npu"),
        published=_ON_ASCEND,
        fused=fused_by("npu"),
    )


def cpu_facts(
    *,
    description: str,
    memory_bytes: int,
    threads: int,
    has_fast_bf16: bool,
    has_two_units: bool = False,
) -> DeviceFacts:
    """Describe a CPU: about 230 GFLOP/s a core with AVX512-BF16 (measured), a third without.

    has_two_units: a core multiplies two vectors of 512 bits in a clock: 400 GFLOP/s, the least that
    products of a training's sizes reached (docs/performance.md).
    """
    per_core = (400e9 if has_two_units else 230e9) if has_fast_bf16 else 70e9
    return DeviceFacts(
        name="cpu",
        kind="cpu",
        description=description,
        memory_bytes=memory_bytes,
        context_bytes=0,
        # Measured (docs/performance.md): microsteps of many sizes leave holes in the heap, and each
        # brings kernels until their number is bounded.
        slack=0.2,
        kernel_bytes=1_000_000,
        most_kernel_bytes=90_000_000,
        flops=per_core * threads,
        flops_fp32=min(per_core / 2, 70e9) * threads,
        achieved=1.0,
        bandwidth=10 * GB,
        launch_s=8e-6,
        # Measured: chunks of 64 to 1,024 rows and packed steps of 276 to 2,208 tokens are equally
        # fast to a few per cent; larger chunks are slower, their logits leave the cache.
        reread=0.1,
        chunk_rows=(128, 256),
        attention=attention_facts("cpu"),
        fused=fused_by("cpu"),
        copies_matrix=True,
        packs=True,
    )


# The rates of 910B chips are those that are commonly quoted: no sheet of them is public.
_ASCENDS = (
    (_ascend("ascend-910b-64g", "Ascend 910B2", 64, 376), r"910B[12].*|910_93\d\d|910C?"),
    (_ascend("ascend-910b3-64g", "Ascend 910B3", 64, 313), r"910B3.*"),
    # A 910B4-1 has the memory of a 910B3, and is as fast as a 910B4.
    (_ascend("ascend-910b-32g", "Ascend 910B4", 32, 280), r"910B4.*"),
)
CATALOGUE: dict[str, DeviceFacts] = {
    facts.name: facts
    for facts in (*(facts for facts, _names in _ASCENDS), *map(_nvidia, NVIDIA_CARDS))
}


def facts_of(
    kind: str, name: str, memory_bytes: int, card: CardProperties | None = None
) -> DeviceFacts:
    """Describe an accelerator that is here: by its very name, else roughly.

    name: as its runtime writes it. card: what it says of itself, by which one that no sheet here
    names is estimated; without that, it counts as the one with the nearest memory.
    """
    found = [CATALOGUE[entry] for entry in entries_named(kind, name)]
    is_rough = not found
    if is_rough:
        found = [facts for facts in CATALOGUE.values() if facts.kind == kind]
    facts = min(found, key=lambda each: abs(each.memory_bytes - memory_bytes))
    if not is_rough:
        return facts
    facts = replace(facts, name=kind, published=(), is_rough=True)
    if card is None:
        return facts
    flops, bandwidth = rough_figures(card)
    return replace(
        _with_kernels(facts, has_bf16=card.capability >= AMPERE),
        fp8_ratio=FP8_RATIO if card.capability >= ADA else 0.0,
        flops=flops,
        flops_fp32=flops / 4 if has_tensor_cores(card.capability) else flops,
        bandwidth=REACHED_BANDWIDTH * bandwidth,
    )


def attention_flops(facts: DeviceFacts, variant: str) -> float:
    """Return the most that attention reaches where it is computed by a variant."""
    return facts.attention_flops * (_PACKAGED_FLASH if variant in (FLASH3, FLASH4) else 1.0)


def entries_named(kind: str, name: str) -> list[str]:
    """Return the catalogue's entries of cards that a driver names so."""
    if kind == "cuda":
        return [
            card.entry for card in NVIDIA_CARDS if any(named_alike(name, n) for n in card.names)
        ]
    bare = name.strip().removeprefix("Ascend").strip()
    return [facts.name for facts, names in _ASCENDS if re.fullmatch(names, bare)]
