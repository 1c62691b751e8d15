"""A model for answers on the CPU: its matrices packed as the CPU's library reads them.

It can be neither trained nor saved. With tied embeddings the embedding stays beside the packed
output matrix: it is looked up, not multiplied.
"""

from __future__ import annotations

from torch import Tensor, nn

from danlu.model.layout import PROJECTIONS
from danlu.model.qwen3 import Qwen3, replace_weight
from danlu.ops import can_pack, pack, packed_linear


class PackedWeight(nn.Module):
    """A matrix [out, in] in the library's order."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        # Not a buffer: what modules do with buffers, opaque tensors cannot.
        self.packed = pack(weight)

    def forward(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        return packed_linear(x, self.packed)


def pack_model(model: Qwen3) -> bool:
    """Pack every matrix, one after the other; return whether there is a form to pack them in."""
    if not can_pack(model.embed_tokens):
        return False
    for layer in model.layers:
        for name in PROJECTIONS:
            replace_weight(layer, name, PackedWeight(getattr(layer, name)))
    replace_weight(model.head, "lm_head", PackedWeight(model.head.lm_head))
    return True
