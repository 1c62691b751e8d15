"""How long a training run takes: operations over what the device does in a second.

The counts follow from the shapes; the rates come from the device's facts until a probe has measured
them. Frozen weights need no gradient of their own, so LoRA costs 4 operations per weight and token
where full training costs 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from danlu.device.datasheets import DeviceFacts
from danlu.device.variants import ASCEND, NATIVE, TRITON
from danlu.model.config import ModelConfig
from danlu.model.layout import PROJECTIONS, merged_shape, num_experts
from danlu.model.recompute import Recompute
from danlu.plan.job import BatchShape, Job, StepPlan

# Counted (tests/plan/test_speed.py), for one layer, forward and backward: operations that are
# started, and numbers that all but products and attention read and write for one token, as
# multiples of hidden_size, of q_size + kv_size and of intermediate_size: in bf16. Counted in fp32
# the last is twice as large, the others are the same to a quarter; that is not distinguished here.
_LORA: Mapping[Recompute, tuple[int, float, float, float]] = {
    "none": (206, 127, 87, 41),
    "selective": (241, 156, 102, 48),
    "gate_up": (263, 170, 102, 65),
    "block": (272, 163, 109, 60),
    "offload": (272, 163, 109, 60),
}
_FULL: Mapping[Recompute, tuple[int, float, float, float]] = {
    "none": (130, 132, 86, 30),
    "selective": (145, 132, 107, 31),
    "gate_up": (158, 146, 107, 36),
    "block": (169, 160, 107, 36),
    "offload": (169, 160, 107, 36),
}
# The same where norms, rotation and swiglu are fused kernels and an adapter's products are made for
# all targets at once; what these read and write is counted, too, as no card does it faster
# (tests/npu/test_counts.py, tests/nvidia/test_counts.py).
_LORA_FUSED: Mapping[str, Mapping[Recompute, tuple[int, float, float, float]]] = {
    ASCEND: {
        "none": (77, 51, 28, 26),
        "selective": (85, 55, 32, 29),
        "gate_up": (92, 58, 32, 41),
        "block": (99, 64, 37, 38),
        "offload": (99, 64, 37, 38),
    },
    TRITON: {
        "none": (55, 33, 15, 20),
        "selective": (60, 37, 18, 23),
        "gate_up": (66, 40, 18, 31),
        "block": (70, 41, 21.5, 28),
        "offload": (70, 41, 21.5, 28),
    },
}
_FULL_FUSED: Mapping[str, Mapping[Recompute, tuple[int, float, float, float]]] = {
    ASCEND: {
        "none": (42, 26, 15, 8),
        "selective": (47, 26, 20, 8),
        "gate_up": (52, 31, 20, 11),
        "block": (56, 36, 20, 11),
        "offload": (56, 36, 20, 11),
    },
    TRITON: {
        "none": (24, 16, 7, 8),
        "selective": (26, 16, 10, 8),
        "gate_up": (30, 18, 10, 11),
        "block": (33, 20, 10, 11),
        "offload": (33, 20, 10, 11),
    },
}
# What fp8 products add to that: rounding what is multiplied, and residual streams that are added
# behind the product (tests/nvidia/test_counts.py).
_FP8: Mapping[Recompute, tuple[int, float, float, float]] = {
    "none": (10, 12, 3, 4.5),
    "selective": (10, 12, 3, 4.5),
    "gate_up": (11, 13.5, 3, 4.5),
    "block": (14, 18, 4, 4.5),
    "offload": (14, 18, 4, 4.5),
}
# What floats of weights in few bits cost, as a share of writing them at the device's bandwidth. On
# two cores it was 0.14 ns for a number in bf16 (docs/performance.md); in nf4 it is more there.
_WRITTEN_SHARE = 0.7
# How long a CPU's products with packed matrices take, and reading these again, as shares
# (docs/performance.md).
_PACKED_SHARE, _PACKED_REREAD = 0.91, 0.5
# What one segment's attention costs of such, and which part of all a forward pass alone is.
_LAUNCHES_PER_SEGMENT = 8
_FORWARD_SHARE = 1 / 3
# What a layer with experts adds to that, both directions: operations that are started, and numbers
# for each expert of a token, as multiples of hidden_size (rows that are brought into the experts'
# order and back) and of moe_intermediate_size. Counted on small layers, with fused kernels.
_EXPERTS_LORA, _EXPERTS_FULL = (80, 25, 24), (41, 6, 0)
# Bytes that the loss moves for one logit, both passes: 14.5 GB for 2,400 rows of 151,936 (counted);
# and as multiples of a logit's own bytes where it is read twice and written once.
_LOSS_BYTES, _LOSS_PASSES = 40, 3
# Attention backward computes the scores again: 2.5 times the forward pass (Dao 2023).
_ATTENTION_BACKWARD = 2.5
# Starting the program and reading the data (3 s measured on two cores), and a common disk.
_START_S = 4.0
_DISK_BYTES_PER_S = 1e9
# So many are multiplied with every expert.
_MANY_TOKENS = 1 << 20
# Probes: four microsteps of the planned size, but not longer than this, and four of a third.
_LONGEST_PROBE_S = 2.0
_PROBES = 4 * (1 + 1 / 3)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a device does. flops: operations per second, from its facts.

    factor: how many times longer everything takes than these facts say; microstep_s: what one
    microstep costs besides. is_measured: both by probes on this device.
    """

    flops: float
    factor: float = 1.0
    microstep_s: float = 0.0
    is_measured: bool = False


def nominal_speed(device: DeviceFacts, number_bytes: int) -> Speed:
    """Return a device's speed as its facts have it."""
    flops = device.flops if number_bytes == 2 else device.flops_fp32
    return Speed(flops=flops * device.achieved)


def seconds_of(
    job: Job, step_plan: StepPlan, shape: BatchShape, device: DeviceFacts, speed: Speed
) -> float:
    """Predict one microstep, forward and backward."""
    flops = training_flops(job, step_plan.recompute, shape)
    if job.base_form == "fp8":
        flops -= _faster_flops(job, step_plan.recompute, shape, device)
    if step_plan.packs_base:
        flops -= (1 - _PACKED_SHARE) * _product_flops(job, step_plan.recompute, shape)
    times = 1 + _ATTENTION_BACKWARD + (step_plan.recompute != "none")
    attention = times * _attention_flops(job.config, shape)
    seconds = (flops - attention) / speed.flops + attention / min(
        speed.flops, device.attention_flops
    )
    seconds += _overhead_s(job, step_plan, shape, device)
    seconds = _with_launches(seconds, _launch_s(job, step_plan.recompute, shape, device), device)
    # Gradients are divided in fp32.
    passes = 2 + (4 / job.number_bytes if job.trains_all else 0)
    seconds = max(seconds, passes * gathering_seconds(job, device))
    return speed.factor * seconds + speed.microstep_s


def exchange_seconds(job: Job, num_devices: int, device: DeviceFacts) -> float:
    """Predict what adding up the gradients of a group takes, once a step.

    By a ring each device sends 2 (n - 1) / n of the numbers (Patarasuk and Yuan 2009), all in fp32,
    and starts as many messages.
    """
    if num_devices == 1 or (job.trains_all and job.is_shared):
        return 0.0
    sent = 2 * (num_devices - 1) / num_devices * 4 * job.num_trained
    return sent / device.link_bandwidth + 2 * (num_devices - 1) * device.launch_s


def gathering_seconds(job: Job, device: DeviceFacts) -> float:
    """Predict what receiving the other devices' shares of the weights takes, once a pass.

    It goes on beside computing: the next layer's while one computes.
    """
    return job.weight_bytes(device.kind) * (1 - 1 / job.num_shares) / device.link_bandwidth


def evaluation_seconds(job: Job, shape: BatchShape, device: DeviceFacts, speed: Speed) -> float:
    """Predict one forward pass."""
    config = job.config
    body = 2.0 * _active_weights(config) * shape.tokens
    if job.base_form == "fp8" and device.fp8_ratio:
        body /= device.fp8_ratio
    seconds = (body + _head_flops(config, shape)) / speed.flops
    seconds += _attention_flops(config, shape) / min(speed.flops, device.attention_flops)
    seconds += _FORWARD_SHARE * _elementwise_s(job, "none", shape, device)
    launches = _FORWARD_SHARE * _launch_s(job, "none", shape, device)
    return speed.factor * _with_launches(seconds, launches, device)


def around_seconds(weight_bytes: int, microstep_s: float, *, report_s: float) -> float:
    """Bound what a run takes besides its steps: starting, loading, probes, and the report.

    report_s: the report's limit; it loads the weights once more.
    """
    start = _START_S + weight_bytes / _DISK_BYTES_PER_S
    probes = _PROBES * min(_LONGEST_PROBE_S, microstep_s)
    return start + probes + (start + report_s if report_s else 0.0)


def training_flops(job: Job, recompute: Recompute, shape: BatchShape) -> float:
    """Count the operations of a microstep, those done again among them."""
    return useful_flops(job, shape) + _again_flops(job.config, recompute, shape)


def useful_flops(job: Job, shape: BatchShape) -> float:
    """Count the operations that a microstep cannot do without."""
    config = job.config
    weights = 3.0 if job.trains_all else 2.0  # forward, gradient of the input, of the weight
    body = weights * 2.0 * _active_weights(config) * shape.tokens
    attention = (1 + _ATTENTION_BACKWARD) * _attention_flops(config, shape)
    adapter = 0.0 if job.trains_all else 6.0 * job.num_trained_active * shape.tokens
    return body + attention + adapter + weights * _head_flops(config, shape)


def _faster_flops(job: Job, recompute: Recompute, shape: BatchShape, device: DeviceFacts) -> float:
    """Count the operations that fp8 saves: products with the layers' weights, at another rate."""
    if not device.fp8_ratio:
        return 0.0
    config = job.config
    weights = 2 * _active_weights(config) + _weights_again(config, recompute)
    products = 2.0 * weights * shape.tokens
    return products * (1 - 1 / device.fp8_ratio)


def _product_flops(job: Job, recompute: Recompute, shape: BatchShape) -> float:
    """Count the operations with frozen matrices, the output matrix among them."""
    weights = 2 * _active_weights(job.config) + _weights_again(job.config, recompute)
    return 2.0 * weights * shape.tokens + 2 * _head_flops(job.config, shape)


def _again_flops(config: ModelConfig, recompute: Recompute, shape: BatchShape) -> float:
    if recompute == "none":
        return 0.0
    again = 2.0 * shape.tokens * _weights_again(config, recompute)
    return again + _attention_flops(config, shape)


def _weights_again(config: ModelConfig, recompute: Recompute) -> int:
    """Count the layers' weights that a token is multiplied with a second time."""
    return {
        "none": 0,
        "selective": 0,
        "gate_up": _active_weights(config, ("gate_up_proj",)),
        # The second pass does not compute what leaves the block.
        "block": _active_weights(config) - _active_weights(config, ("down_proj",)),
        "offload": _active_weights(config) - _active_weights(config, ("down_proj",)),
    }[recompute]


def _head_flops(config: ModelConfig, shape: BatchShape) -> float:
    return 2.0 * config.vocab_size * config.hidden_size * shape.targets


def _attention_flops(config: ModelConfig, shape: BatchShape) -> float:
    """Forward: two products of [s, s / 2] scores with every query head."""
    return 2.0 * config.q_size * shape.squares * config.num_hidden_layers


def _active_weights(config: ModelConfig, names: tuple[str, ...] = tuple(PROJECTIONS)) -> int:
    """Count the layers' weights that a token is multiplied with, the router's not."""
    return _weights_of(config, names, 1)


def _weights_read(config: ModelConfig, tokens: int) -> int:
    """Count the layers' weights that so many tokens are multiplied with: of experts up to all."""
    experts = config.experts
    most = 1 if experts is None else -(-experts.num_experts // experts.num_experts_per_tok)
    return _weights_of(config, tuple(PROJECTIONS), min(tokens, most))


@lru_cache(maxsize=256)  # asked for each of thousands of plans
def _weights_of(config: ModelConfig, names: tuple[str, ...], tokens: int) -> int:
    total = 0
    for layer in range(config.num_hidden_layers):
        experts = config.experts_of(layer)
        for name in names:
            out, inner = merged_shape(config, name, layer)
            count = num_experts(config, name, layer)
            if count is not None and experts is not None:
                out *= min(count, tokens * experts.num_experts_per_tok)
            total += out * inner
    return total


def _counts(job: Job, recompute: Recompute, device: DeviceFacts) -> tuple[int, float, float, float]:
    plain, fused = (_FULL, _FULL_FUSED) if job.trains_all else (_LORA, _LORA_FUSED)
    kernels = device.fused_in(job.number_bytes)
    # Those in C++ read and write what those in Triton do.
    kernels = TRITON if kernels == NATIVE else kernels
    counts = fused.get(kernels, plain)[recompute]
    if job.base_form != "fp8":
        return counts
    launches, *numbers = (count + more for count, more in zip(counts, _FP8[recompute], strict=True))
    return int(launches), numbers[0], numbers[1], numbers[2]


def _launch_s(job: Job, recompute: Recompute, shape: BatchShape, device: DeviceFacts) -> float:
    launches, *_numbers = _counts(job, recompute, device)
    if device.attention.calls_segments(job.number_bytes):
        launches += _LAUNCHES_PER_SEGMENT * shape.segments
    of_experts = (_EXPERTS_FULL if job.trains_all else _EXPERTS_LORA)[0] * job.expert_layers
    return (job.config.num_hidden_layers * launches + of_experts) * device.launch_s


def _with_launches(seconds: float, launch_s: float, device: DeviceFacts) -> float:
    """Add starting the operations: the host of a card does that while the card computes."""
    return max(seconds, launch_s) if device.has_host else seconds + launch_s


def _elementwise_s(job: Job, recompute: Recompute, shape: BatchShape, device: DeviceFacts) -> float:
    config = job.config
    _launches, hidden, heads, inner = _counts(job, recompute, device)
    numbers = hidden * config.hidden_size + heads * (config.q_size + config.kv_size)
    _launches, of_rows, of_inner = _EXPERTS_FULL if job.trains_all else _EXPERTS_LORA
    numbers += inner * job.inner_size + of_rows * job.row_size
    numbers += of_inner * job.expert_inner_size
    moved = numbers * job.number_bytes * config.num_hidden_layers * shape.tokens
    in_place = device.fused_in(job.number_bytes) in (TRITON, NATIVE)
    by_logit = _LOSS_PASSES * job.number_bytes if in_place else _LOSS_BYTES
    moved += by_logit * config.vocab_size * shape.targets
    return moved / device.bandwidth


def _overhead_s(job: Job, step_plan: StepPlan, shape: BatchShape, device: DeviceFacts) -> float:
    """Seconds for all but products: moving numbers, reading weights again, what is offloaded."""
    config, size = job.config, job.number_bytes
    chunks = -(-shape.targets // step_plan.chunk_rows)
    body = 3 * _weights_read(config, shape.tokens)
    head = 2 * chunks * config.vocab_size * config.hidden_size
    seconds = _elementwise_s(job, step_plan.recompute, shape, device)
    reread = device.reread * (_PACKED_REREAD if step_plan.packs_base else 1)
    seconds += reread * (body + head) * size / device.bandwidth
    if job.base_form not in (None, "fp8"):
        seconds += _floats_s(job, step_plan.recompute, device)
    if job.trains_all:  # each chunk's gradient at the head is written, read and added in fp32
        moved = (2 * size + 8) * chunks * config.vocab_size * config.hidden_size
        seconds += moved / device.bandwidth
    if step_plan.recompute == "offload":  # out and back over PCIe, 20 GB/s, not overlapped
        seconds += 2 * config.num_hidden_layers * config.hidden_size * size * shape.tokens / 20e9
    return seconds


def _floats_s(job: Job, recompute: Recompute, device: DeviceFacts) -> float:
    """Seconds in which weights in few bits become floats, which are read like any others.

    Forward and for the gradient of the input, and for what is computed again.
    """
    again = _weights_again(job.config, recompute) / _active_weights(job.config)
    weights = (2 + again) * _weights_read(job.config, _MANY_TOKENS)
    return _WRITTEN_SHARE * weights * job.number_bytes / device.bandwidth
