"""How much memory a training run needs at its peak.

Follows the forward pass of `model` and the backward pass of `lora` and `train.loop.loss` tensor by
tensor: a change of what these keep is a change here too (tests/plan compares both).
In the names below: H hidden_size, I intermediate_size, Q and KV the widths of queries and keys,
V vocab_size. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from danlu.device.datasheets import DeviceFacts
from danlu.model.recompute import Recompute
from danlu.plan.job import BatchShape, Job, StepPlan

# Master value, gradient and the two moments of AdamW, each in fp32.
_TRAINED_BYTES = 16


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
    job: Job, step_plan: StepPlan, shape: BatchShape, device: DeviceFacts, *, microsteps: float = 0
) -> Memory:
    """Predict the peak of a run, reached while its heaviest micro-batch is computed.

    shape: of that micro-batch. microsteps: of the whole run; each may leave a compiled kernel.
    """
    layers = job.config.num_hidden_layers
    kept = layers * kept_per_token(job, step_plan.recompute, device, shape) * shape.tokens
    on_host = step_plan.recompute == "offload" and device.has_host
    passing = max(
        _loss(job, step_plan, shape, device), _layer(job, step_plan.recompute, device, shape)
    )
    weights = job.num_weights * job.number_bytes
    if job.trains_all and job.number_bytes == 4:
        weights = 0  # the master values are the weights
    trained = job.num_trained * _TRAINED_BYTES
    activations = 0 if on_host else kept
    return Memory(
        process=device.context_bytes
        + int(min(device.kernel_bytes * microsteps, device.most_kernel_bytes)),
        weights=weights,
        trained=trained,
        activations=activations,
        working=passing + _around(job, shape),
        slack=int(device.slack * activations),
    )


def host_bytes(job: Job, shape: BatchShape) -> int:
    """Return what the policy `offload` keeps in the host's memory."""
    per_token = job.config.hidden_size * job.number_bytes
    return job.config.num_hidden_layers * per_token * shape.tokens


def kept_per_token(job: Job, recompute: Recompute, device: DeviceFacts, shape: BatchShape) -> int:
    """Return the bytes that one layer keeps of every token for the backward pass."""
    config, size = job.config, job.number_bytes
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.q_size, config.kv_size
    if recompute in ("block", "offload"):
        return hidden * size
    mlp_is_kept = recompute != "gate_up"
    # The residual stream before either half, which norms or their projections keep.
    numbers = 2 * hidden + q + 2 * kv
    if job.is_trained("o_proj"):
        numbers += q
    numbers += job.rank("qkv_proj") + job.rank("o_proj")
    if mlp_is_kept:
        numbers += 2 * inner + job.rank("gate_up_proj") + job.rank("down_proj")
    keeps_normed = job.trains_all or recompute == "none"
    if keeps_normed and job.is_trained("qkv_proj"):
        numbers += hidden
    if keeps_normed and mlp_is_kept:
        numbers += hidden * job.is_trained("gate_up_proj") + inner * job.is_trained("down_proj")
    kept = numbers * size
    if recompute == "none":
        # Rotated q and k, and the attention's own copy of its output, if it is not the same one.
        width = device.attention.number_bytes or size
        kept += (q + kv) * width + _attention_state(job, device, shape)
        if width > size:
            kept += (kv + q) * width
        elif shape.segments > 1 or not job.is_trained("o_proj"):
            kept += q * size
    return kept


def _attention_state(job: Job, device: DeviceFacts, shape: BatchShape) -> int:
    """Bytes that attention keeps of a token besides its inputs and output."""
    by_segment = -(-device.attention.segment_bytes * shape.segments // shape.tokens)
    return device.attention.head_token_bytes * job.config.num_attention_heads + by_segment


def _layer(job: Job, recompute: Recompute, device: DeviceFacts, shape: BatchShape) -> int:
    """Bytes of one layer's backward pass: what it computes again, and the gradients under way."""
    config, size = job.config, job.number_bytes
    inner, q, kv = config.intermediate_size, config.q_size, config.kv_size
    again = 0
    if recompute in ("block", "offload"):
        again = kept_per_token(job, "none", device, shape)
    elif recompute == "gate_up":
        again = (2 * inner + inner * job.trains_all) * size
    # swiglu's backward: its output's gradient, that of gate and up, and three slopes.
    mlp = 7 * inner * size
    # q, k, v and their gradients as attention takes them; QK-norm's backward on fp32 copies.
    width = device.attention.number_bytes or size
    attention = 2 * (q + 2 * kv) * (width + size) + 2 * q * width + 16 * q
    if recompute in ("selective", "gate_up"):  # it is computed again
        attention += _attention_state(job, device, shape)
    return (again + max(mlp, attention) + 2 * config.hidden_size * size) * shape.tokens


def _loss(job: Job, step_plan: StepPlan, shape: BatchShape, device: DeviceFacts) -> int:
    """Bytes of one chunk of logits: as computed, in fp32, and fp32 once more for their sum.

    Then the gradient of the logits, and of the output matrix where that is trained.
    """
    config, size = job.config, job.number_bytes
    numbers = min(step_plan.chunk_rows, shape.targets) * config.vocab_size
    matrix = config.vocab_size * config.hidden_size * size
    chunk = numbers * (size + 8)
    if job.trains_all:
        chunk = max(chunk, numbers * size + matrix)
    if device.copies_matrix and size == 2:
        chunk += matrix
    return chunk


def _around(job: Job, shape: BatchShape) -> int:
    """Bytes around the layers: the last residual stream, supervised rows and their gradients."""
    hidden = job.config.hidden_size * job.number_bytes
    return (2 * shape.tokens + 3 * shape.targets) * hidden
