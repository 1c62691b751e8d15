"""How much memory a training run needs at its peak.

Follows the forward pass of `model` and the backward pass of `lora` and `train.loop.loss` tensor by
tensor: a change of what these keep is a change here too (tests/plan compares both).
In the names below: H hidden_size, I intermediate_size, Q and KV the widths of queries and keys,
V vocab_size. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from danlu.device.datasheets import DeviceFacts
from danlu.device.variants import ASCEND, NATIVE, TRITON
from danlu.device.weight_forms import floats_bytes
from danlu.model.config import ExpertsConfig, ModelConfig
from danlu.model.layout import PROJECTIONS, merged_shape
from danlu.model.recompute import Recompute
from danlu.plan.job import BatchShape, Job, StepPlan

# Master value, gradient and the two moments of AdamW, each in fp32.
_TRAINED_BYTES = 16
# Measured on the simulated NPU (tests/npu/test_memory_plan.py): numbers for one token, as multiples
# of hidden_size, intermediate_size, q_size and kv_size, where the backward pass of a layer takes
# most: in the MLP, and in QK-norm and RoPE. In bf16; in fp32 it takes less.
_Widths = tuple[float, float, float, float]
_LORA: Mapping[Recompute, tuple[_Widths, _Widths]] = {
    "none": ((1, 5, 0, 0), (-1, -3, 9.25, 12.25)),
    "selective": ((1, 6, 0, 0), (0, -2, 13.25, 13.25)),
    "gate_up": ((2, 8, 0, 0), (0, 0, 13.25, 13.25)),
    "block": ((5, 8, 4, 3), (4, 0, 13.25, 15.25)),
    "offload": ((6, 8, 4, 3), (5, 0, 13.25, 15.25)),
}
_FULL: Mapping[Recompute, tuple[_Widths, _Widths]] = {
    "none": ((1, 4, 0, 0), (-1, -3, 11.25, 14.25)),
    "selective": ((1, 4, 0, 0), (-1, -3, 15.25, 15.25)),
    "gate_up": ((3, 7, 0, 0), (0, 0, 15.25, 15.25)),
    "block": ((5, 7, 4, 3), (4, 0, 15.25, 17.25)),
    "offload": ((6, 7, 4, 3), (5, 0, 15.25, 17.25)),
}
# The same with fused kernels, which make nothing on their way that the device's allocator sees.
_LORA_FUSED: Mapping[str, Mapping[Recompute, tuple[_Widths, _Widths]]] = {
    ASCEND: {
        "none": ((1, 3, 0, 0), (-1, -3, 2, 2)),
        "selective": ((1, 4, 0, 0), (0, -2, 3.5, 5.5)),
        "gate_up": ((2, 6, 0, 0), (0, 0, 3.5, 5.5)),
        "block": ((5, 6, 3, 3), (4, 0, 5, 5.25)),
        "offload": ((6, 6, 3, 3), (5, 0, 5, 5.25)),
    },
    TRITON: {
        "none": ((1, 3, 0, 0), (-1, -3, 2, 2)),
        "selective": ((1, 4, 0, 0), (0, -2, 3, 4)),
        "gate_up": ((2, 6, 0, 0), (0, 0, 3, 4)),
        "block": ((5, 6, 3, 3), (4, 0, 5, 5.25)),
        "offload": ((6, 6, 3, 3), (5, 0, 5, 5.25)),
    },
}
_FULL_FUSED: Mapping[str, Mapping[Recompute, tuple[_Widths, _Widths]]] = {
    ASCEND: {
        "none": ((1, 2, 0, 0), (-1, -3, 1.5, 2)),
        "selective": ((1, 2, 0, 0), (-1, -3, 3.5, 5.75)),
        "gate_up": ((3, 5, 0, 0), (0, 0, 3.5, 5.75)),
        "block": ((5, 5, 3, 3), (4, 0, 5, 5.25)),
        "offload": ((7, 5, 3, 3), (5, 0, 5, 5.25)),
    },
    TRITON: {
        "none": ((1, 2, 0, 0), (-1, -3, 2, 2)),
        "selective": ((1, 2, 0, 0), (-1, -3, 3, 4)),
        "gate_up": ((3, 5, 0, 0), (0, 0, 3, 4)),
        "block": ((5, 5, 3, 3), (4, 0, 5, 5)),
        "offload": ((6, 5, 3, 3), (5, 0, 5, 5)),
    },
}
# Of each expert of a token its number, and three places among the rows (model/experts.py).
_CHOSEN_BYTES = 4 * 8
# Rows of hidden_size that a layer's backward pass has at once of each expert of a token.
_ROWS_AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The parts of the peak, in bytes; they add up to it.

    process: the program, and what driver and libraries take. trained: master weights, gradients and
    moments. activations: what the forward pass keeps. working: the larger of the loss's logits and
    one layer's backward pass. slack: what is lost between allocations of different sizes.
    """

    process: int
    weights: int
    trained: int
    activations: int
    working: int
    slack: int

    @property
    def total(self) -> int:
        """The peak."""
        return sum(getattr(self, part.name) for part in fields(self))


def memory_of(
    job: Job,
    step_plan: StepPlan,
    shape: BatchShape,
    device: DeviceFacts,
    *,
    microsteps: float = 0,
    is_shared: bool = False,
) -> Memory:
    """Predict the peak of a run, reached while its heaviest micro-batch is computed.

    shape: of that micro-batch. microsteps: of the whole run; each may leave a compiled kernel.
    is_shared: other devices share the steps.
    """
    layers = job.config.num_hidden_layers
    kept = layers * kept_per_token(job, step_plan.recompute, device, shape) * shape.tokens
    on_host = step_plan.recompute == "offload" and device.has_host
    passing = max(
        loss_bytes(job, step_plan, shape, device),
        layer_bytes(job, step_plan.recompute, device, shape) + piece_bytes(job, device),
    )
    weights = -(-job.weight_bytes(device.kind) // job.num_shares) + job.gathered_bytes
    weights += step_plan.packs_base * job.packed_bytes
    if job.trains_all and job.number_bytes == 4 and not job.is_shared:
        weights = 0  # the master values are the weights
    trained = job.num_trained * _TRAINED_BYTES
    if job.trains_all:
        # Gathered weights have gradients, too, before these are divided; shares have them behind.
        trained = -(-trained // job.num_shares)
        weights += job.gathered_bytes + job.is_shared * job.weight_bytes(device.kind) // (
            job.num_shares
        )
    if not job.trains_all:
        trained += _working_bytes(job, device)
    activations = 0 if on_host else kept
    return Memory(
        process=device.context_bytes
        + is_shared * device.group_bytes
        + int(min(device.kernel_bytes * microsteps, device.most_kernel_bytes)),
        weights=weights,
        trained=trained,
        activations=activations,
        # The gradient of the supervised rows is there from the loss to the last layer.
        working=passing + batch_bytes(job, shape, device) + _supervised(job, shape),
        slack=int(device.slack * activations),
    )


def _working_bytes(job: Job, device: DeviceFacts) -> int:
    """Return what products take of an adapter: copies of its own, in the dtype of the weights.

    Where they are made for all targets at once, their matrices are the blocks of a larger one.
    """
    if device.fused in ("", NATIVE):
        return job.num_trained * job.number_bytes if job.number_bytes < 4 else 0
    is_copied = job.number_bytes < 4
    if job.config.experts is not None:  # too many for that
        return job.num_trained * job.number_bytes if is_copied else 0
    a, b = 0, 0
    for name in PROJECTIONS:
        out, in_features = merged_shape(job.config, name, 0)
        a += job.rank(name) * in_features
        b += job.rank(name) * out
    copied = b + (a if is_copied else 0)
    return copied * job.number_bytes * job.config.num_hidden_layers


def host_bytes(job: Job, shape: BatchShape) -> int:
    """Return what the policy `offload` keeps in the host's memory."""
    per_token = job.config.hidden_size * job.number_bytes
    return job.config.num_hidden_layers * per_token * shape.tokens


def kept_per_token(job: Job, recompute: Recompute, device: DeviceFacts, shape: BatchShape) -> int:
    """Return the bytes that one layer keeps of every token for the backward pass.

    Where some layers have experts, and others not: on average.
    """
    experts, layers = job.config.experts, job.config.num_hidden_layers
    dense = _kept(job, recompute, device, shape, None)
    if experts is None:
        return dense
    with_experts = _kept(job, recompute, device, shape, experts)
    share = job.expert_layers
    return (share * with_experts + (layers - share) * dense) // layers


def _kept(
    job: Job,
    recompute: Recompute,
    device: DeviceFacts,
    shape: BatchShape,
    experts: ExpertsConfig | None,
) -> int:
    config, size = job.config, job.number_bytes
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.q_size, config.kv_size
    chosen = 0 if experts is None else _CHOSEN_BYTES * experts.num_experts_per_tok
    if recompute in ("block", "offload"):
        return hidden * size + chosen
    mlp_is_kept = recompute != "gate_up"
    # The residual stream before either half, which norms or their projections keep.
    numbers = 2 * hidden + q + 2 * kv
    if job.is_trained("o_proj"):
        numbers += q
    numbers += job.rank("qkv_proj") + job.rank("o_proj")
    if mlp_is_kept and experts is not None:
        numbers += _kept_of_experts(job, experts)
    elif mlp_is_kept:
        numbers += 2 * inner + job.rank("gate_up_proj") + job.rank("down_proj")
    keeps_normed = job.trains_all or recompute == "none"
    if keeps_normed and job.is_trained("qkv_proj"):
        numbers += hidden
    if keeps_normed and mlp_is_kept and experts is None:
        numbers += hidden * job.is_trained("gate_up_proj") + inner * job.is_trained("down_proj")
    kept = numbers * size + chosen
    if experts is not None and mlp_is_kept:
        # Probabilities in fp32, and those that were chosen before and after they add up to 1.
        kept += 4 * (experts.num_experts + 2 * experts.num_experts_per_tok)
    if recompute == "none":
        # Rotated q and k, and the attention's own copy of its output, if it is not the same one.
        width = device.attention.number_bytes or size
        kept += (q + kv) * width + _attention_state(job, device, shape)
        if width > size:
            kept += (kv + q) * width
        elif not job.is_trained("o_proj") or (
            device.attention.calls_segments(size) and shape.segments > 1
        ):
            kept += q * size
    return kept


def _kept_of_experts(job: Job, experts: ExpertsConfig) -> int:
    """Count the numbers that the two products of a layer's experts keep of a token."""
    hidden, inner = job.config.hidden_size, experts.moe_intermediate_size
    of_row = 2 * inner + job.rank("gate_up_proj") + job.rank("down_proj") + 1
    if job.trains_all:
        of_row += hidden + inner
    if not job.rank("down_proj"):
        of_row += hidden  # what each expert makes, for the gradient of its weight
    return hidden + experts.num_experts_per_tok * of_row


def _attention_state(job: Job, device: DeviceFacts, shape: BatchShape) -> int:
    """Bytes that attention keeps of a token besides its inputs and output."""
    by_segment = -(-device.attention.segment_bytes * shape.segments // shape.tokens)
    return device.attention.head_token_bytes * job.config.num_attention_heads + by_segment


def layer_bytes(job: Job, recompute: Recompute, device: DeviceFacts, shape: BatchShape) -> int:
    """Return what the backward pass of one layer takes besides what was kept.

    It is most in the MLP, or in QK-norm and RoPE, where what the MLP kept is free already.
    """
    config, size = job.config, job.number_bytes
    if recompute == "offload" and not device.has_host:
        recompute = "block"
    plain, fused = (_FULL, _FULL_FUSED) if job.trains_all else (_LORA, _LORA_FUSED)
    kernels = device.fused_in(size)
    # Those in C++ make on their way what those in Triton make.
    kernels = TRITON if kernels == NATIVE else kernels
    in_mlp, in_attention = fused.get(kernels, plain)[recompute]
    widths = (config.hidden_size, _widest(config), config.q_size, config.kv_size)
    mlp, attention = (
        size * sum(factor * width for factor, width in zip(factors, widths, strict=True))
        for factors in (in_mlp, in_attention)
    )
    # An adapter's narrow products: those of the last projection, and what is computed again.
    again = {"gate_up": ("gate_up_proj", "down_proj"), "none": (), "selective": ()}
    if config.experts is not None:
        mlp += size * _ROWS_AT_ONCE * config.experts.num_experts_per_tok * config.hidden_size
    narrow = sum(job.rank(name) for name in again.get(recompute, tuple(PROJECTIONS)))
    mlp += size * (narrow + 4 * job.rank("down_proj"))
    if job.trains_all or recompute != "none":
        attention += _attention_state(job, device, shape)
    if recompute in ("block", "offload"):
        mlp += _attention_state(job, device, shape)
    # Inputs, output and their gradients where attention takes them in another precision.
    wider = (device.attention.number_bytes or size) - size
    attention += wider * (4 * config.q_size + 4 * config.kv_size)
    return int(max(mlp, attention)) * shape.tokens


def piece_bytes(job: Job, device: DeviceFacts) -> int:
    """Return what a quantised weight takes while a piece of it is floats, for a product.

    Of experts all matrices are floats at a time, but on a device that is its own host.
    """
    if job.base_form is None or job.base_form == "fp8":
        return 0
    largest, size = job.largest_matrix, job.number_bytes
    piece = floats_bytes(job.base_form, largest, kind=device.kind, number_bytes=size)
    return piece + largest * size * (job.config.experts is not None and device.has_host)


def _widest(config: ModelConfig) -> int:
    """Return the most numbers that a layer has of a token between gate, up and down."""
    experts = config.experts
    if experts is None:
        return config.intermediate_size
    of_experts = experts.num_experts_per_tok * experts.moe_intermediate_size
    has_dense = any(config.experts_of(n) is None for n in range(config.num_hidden_layers))
    return max(of_experts, config.intermediate_size) if has_dense else of_experts


def loss_bytes(job: Job, step_plan: StepPlan, shape: BatchShape, device: DeviceFacts) -> int:
    """Return what one chunk of the loss takes: logits, in fp32, and fp32 once more for their sum.

    Without a kernel of its own, that is. Then the gradient of the logits, and of the output matrix
    where that is trained.
    """
    config, size = job.config, job.number_bytes
    rows = min(step_plan.chunk_rows, shape.targets)
    numbers = rows * config.vocab_size
    matrix = config.vocab_size * config.hidden_size * size
    of_rows = rows * config.hidden_size * size
    if device.fused_in(size) in (TRITON, NATIVE):
        # Its kernel turns the logits into their gradient where they are; then there are those of
        # the chunk's rows, behind the norm and before it.
        chunk = numbers * size + 2 * of_rows + (matrix if job.trains_all else 0)
    else:
        chunk = numbers * (size + 8)
        if job.trains_all:
            chunk = max(chunk, numbers * size + matrix) + of_rows
    if device.copies_matrix and size == 2 and not step_plan.packs_base:
        chunk += matrix
    return chunk


def batch_bytes(job: Job, shape: BatchShape, device: DeviceFacts) -> int:
    """Return what a batch keeps outside the layers.

    Its numbers, the rotation's angles, and the rows before a supervised token.
    """
    size = job.number_bytes
    numbers = 8 * 2 * (shape.tokens + shape.targets) + 12 * (shape.segments + 1)
    angles = shape.tokens * job.config.head_dim * size * (2 if device.fused == ASCEND else 1)
    return numbers + angles + _supervised(job, shape)


def _supervised(job: Job, shape: BatchShape) -> int:
    return shape.targets * job.config.hidden_size * job.number_bytes
