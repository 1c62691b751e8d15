"""A model for answers on the CPU: its matrices packed as the CPU's library reads them.

It can be neither trained nor saved. With tied embeddings the embedding stays beside the packed
output matrix: it is looked up, not multiplied.
"""

from __future__ import annotations

from functools import partial

from danlu.model.layout import PROJECTIONS
from danlu.model.qwen3 import Qwen3, replace_weight
from danlu.ops import packing_for


def pack_model(model: Qwen3) -> bool:
    """Pack every matrix, one after the other; return whether there is a form to pack them in."""
    packing = packing_for(model.embed_tokens)
    if packing is None:
        return False
    owners = [(layer, name) for layer in model.layers for name in PROJECTIONS]
    for owner, name in [*owners, (model.head, "lm_head")]:
        packed = packing.pack(getattr(owner, name))
        replace_weight(owner, name, partial(packing.linear, packed))
    return True
