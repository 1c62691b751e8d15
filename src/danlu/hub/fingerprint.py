"""A model's fingerprint: enough to notice another base without reading gigabytes.

Covers config.json's fields that shape the computation, every tensor's name, dtype and shape, and
a few bytes sampled from every tensor.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from danlu.model.config import ModelConfig
from danlu.weights.sharded import WeightFolder

# Fields of the experts that only training knows.
_OF_TRAINING = ("output_router_logits", "router_aux_loss_coef")
_SAMPLES = 4
_SAMPLE_BYTES = 64


def fingerprint(config: ModelConfig, weights: WeightFolder) -> str:
    """Return 32 hexadecimal digits that change with the architecture or the weights."""
    digest = hashlib.blake2b(digest_size=16)
    shape_fields = {
        k: v for k, v in asdict(config).items() if k not in ("eos_token_ids", "experts")
    }
    if config.experts is not None:
        shape_fields["experts"] = {
            k: v for k, v in asdict(config.experts).items() if k not in _OF_TRAINING
        }
    digest.update(json.dumps(shape_fields, sort_keys=True).encode())
    for name in sorted(weights.files):
        stored = weights.files[name].tensors[name]
        digest.update(f"{name} {stored.dtype} {stored.shape}".encode())
        span = stored.stop - stored.start
        for part in range(_SAMPLES):
            place = stored.start + span * part // _SAMPLES
            digest.update(weights.files[name].bytes_at(place, min(_SAMPLE_BYTES, span)))
    return digest.hexdigest()
