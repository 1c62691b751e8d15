"""Settings that say how a model is computed, shared by the commands that open one. No torch here.

A command's class takes one as `device: DeviceName = "auto"`; the help comes with the type. The
lists of values equal those of `device`, which needs torch (tests/hub/test_settings.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from danlu.model.config import Quantization
from danlu.settings.ranges import Range
from danlu.settings.schema import option
from danlu.text.render import Template

DtypeName = Annotated[
    Literal["auto", "bfloat16", "float16", "float32"], option(..., "precision of the weights")
]
AnsweringDtype = Annotated[
    Literal["auto", "bfloat16", "float16", "float32"],
    option(..., "precision of the weights", aliases=("infer_dtype",)),
]
DeviceName = Annotated[Literal["auto", "npu", "cuda", "cpu"], option(..., "where to compute")]
QuantizationChoice = Annotated[
    Quantization | None,
    option(
        ..., "keep the weights in fewer bits: less memory, faster answers, slightly other numbers"
    ),
]
CacheTokens = Annotated[
    int | None,
    Range(least=1),
    option(
        ...,
        "tokens of prompts and answers that are kept at once; not given: a part of the free memory",
    ),
]
TrainedTemplate = Annotated[Template | None, option(..., "chat format; as trained if not given")]
