"""A model on the CPU whose matrices are packed as a CPU reads them best.

It can be neither trained nor saved; packed for both directions it can be learned on. Tied
embeddings are there once where rows of what is packed can be looked up; else the embedding stays
beside the packed output matrix.
"""

from __future__ import annotations

from danlu.model.layout import PROJECTIONS, merged_shape, num_experts
from danlu.model.qwen3 import Qwen3, replace_weight
from danlu.ops import base_packing_for, packing_for


def pack_model(model: Qwen3) -> bool:
    """Pack the matrices, one after the other; return whether there is a form to pack them in."""
    packing = packing_for(model.dtype, model.device)
    if packing is None:
        return False
    head = packing.pack(model.head.lm_head)
    if packing.looks_up and model.config.tie_word_embeddings:
        replace_weight(model, "embed_tokens", head)
    replace_weight(model.head, "lm_head", head)
    for index, layer in enumerate(model.layers):
        for name in PROJECTIONS:
            if num_experts(model.config, name, index) is not None:
                out, _in_features = merged_shape(model.config, name, index)
                if not packing.expert_multiple or out % packing.expert_multiple:
                    continue  # multiplied as they are
            replace_weight(layer, name, packing.pack(getattr(layer, name)))
    return True


def pack_base(model: Qwen3) -> bool:
    """Pack the matrices below an adapter for both directions, one after the other.

    Returns whether there is a form to pack them in. Not for models with experts.
    """
    packing = base_packing_for(model.dtype, model.device)
    if packing is None:
        return False
    tied = model.config.tie_word_embeddings
    replace_weight(model.head, "lm_head", packing(model.head.lm_head, keeps_plain=tied))
    for layer in model.layers:
        for name in PROJECTIONS:
            replace_weight(layer, name, packing(getattr(layer, name)))
    return True
