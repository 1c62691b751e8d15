"""A model folder as one GGUF file, for llama.cpp and Ollama, with its tokenizer and chat template.

Names of tensors and fields: llama.cpp's, as its converter writes them for Qwen3 (gguf-py,
constants.py). Matrices are written in the type that is asked for, norms in fp32.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

import danlu
from danlu.errors import UsageError
from danlu.export.ollama import MODELFILE, modelfile
from danlu.files.committed import committed_folder
from danlu.files.os_errors import require_free
from danlu.hub.chat_template import template_text
from danlu.hub.generation import generation_defaults
from danlu.hub.load import CheckedModel, check_model
from danlu.hub.names import STARTER
from danlu.hub.prompting import Prompting
from danlu.hub.template_default import TEMPLATE_FILE, with_default
from danlu.language import _
from danlu.model.layout import layout
from danlu.moving_line import Progress, no_progress
from danlu.runs.manifest import is_run
from danlu.text.render import TURN_END
from danlu.text.vocabulary import read_vocabulary
from danlu.weights.gguf import Q8_BLOCK, GgufTensor, GgufType, Value, write_gguf

MatrixType = Literal["bf16", "q8_0"]
Form = Literal["gguf", "ollama"]
REPORT = "export_report.json"
# llama.cpp's numbers for the type of most tensors (enum llama_ftype).
_FILE_TYPES = {"bf16": 32, "q8_0": 7}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_OUTSIDE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was exported, and how it is prompted. file: its name in the folder."""

    model: str
    file: str
    form: Form
    type: MatrixType
    template: str
    enable_thinking: bool | None
    num_tensors: int
    num_bytes: int


def export(
    name: str,
    export_dir: Path,
    *,
    form: Form,
    type: MatrixType,
    prompting: Prompting,
    progress: Progress = no_progress,
) -> ExportReport:
    """Write a model to the new folder `export_dir`: a GGUF file, for Ollama with its Modelfile.

    Raises UsageError, DataError or CapacityError before anything is written.
    """
    if export_dir.exists() and (not export_dir.is_dir() or any(export_dir.iterdir())):
        raise UsageError(
            _("The export folder {folder} is not empty.").format(folder=export_dir),
            why=_("An export never overwrites what is there."),
            fix=shlex.join(
                [
                    *("danlu", "export", name, "--format", form, "--type", type),
                    *("--export_dir", str(_free_name(export_dir))),
                ]
            ),
        )
    progress(_("checking the model"), 0, 0)
    model = check_model(name)
    if model.config.experts is not None:
        raise UsageError(
            _("{name} is not exported.").format(name=name),
            why=_("It is a mixture of experts; danlu writes GGUF files of dense models only."),
            fix=_(
                "Convert its folder with llama.cpp: python convert_hf_to_gguf.py {folder}"
            ).format(folder=shlex.quote(str(model.folder))),
        )
    fields = {**_fields(model, type, prompting), **_tokenizer_fields(model, prompting)}
    tensors = _tensors(model, type)
    total = sum(tensor.num_bytes for tensor in tensors)
    require_free(export_dir, total + 32 * 2**20)
    title = STARTER if name == STARTER else _name_of(model.folder)
    report = ExportReport(
        model=name,
        file=f"{title}-{type}.gguf",
        form=form,
        type=type,
        template=prompting.template,
        enable_thinking=prompting.enable_thinking,
        num_tensors=len(tensors),
        num_bytes=total,
    )
    with committed_folder(export_dir) as draft:
        fetch = _reader(model, tensors, progress)
        write_gguf(draft, report.file, fields, tensors, fetch)
        if form == "ollama":
            draft.write(MODELFILE, modelfile(report.file, prompting, _sampling(model, prompting)))
        draft.write(REPORT, json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n")
    return report


def command_to_use(report: ExportReport, folder: Path) -> str:
    """Write the command with which llama.cpp or Ollama takes what was exported to a folder."""
    if report.form == "ollama":
        name = shlex.quote(folder.name.lower())
        where = shlex.quote(str(folder / MODELFILE))
        return f"ollama create {name} -f {where} && ollama run {name}"
    return f"llama-cli --jinja -m {shlex.quote(str(folder / report.file))}"


def _name_of(folder: Path) -> str:
    """Name a model as people do: its folder's name, of what a run has trained the run's."""
    return folder.parent.name if is_run(folder.parent) else folder.name


def _free_name(folder: Path) -> Path:
    numbers = (folder.with_name(f"{folder.name}-{number}") for number in range(2, 10_000))
    return next(path for path in numbers if not path.exists())


def _fields(model: CheckedModel, type: MatrixType, prompting: Prompting) -> dict[str, Value]:
    config = model.config
    sizes: dict[str, Value] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_theta),
    }
    sampling = _sampling(model, prompting)
    return {
        "general.architecture": "qwen3",
        "general.type": "model",
        "general.name": _name_of(model.folder),
        "general.file_type": _FILE_TYPES[type],
        "general.quantization_version": 2,
        "general.sampling.temp": float(sampling["temperature"]),
        "general.sampling.top_p": float(sampling["top_p"]),
        "general.sampling.top_k": int(sampling["top_k"]),
        **{f"qwen3.{key}": value for key, value in sizes.items()},
    }


def _sampling(model: CheckedModel, prompting: Prompting) -> Mapping[str, float]:
    thinks = prompting.enable_thinking and prompting.template != "qwen3_nothink"
    own = generation_defaults(model.folder, model.config, enable_thinking=thinks)
    return {"temperature": own.temperature, "top_p": own.top_p, "top_k": own.top_k}


def _tokenizer_fields(model: CheckedModel, prompting: Prompting) -> dict[str, Value]:
    vocabulary = read_vocabulary(model.folder)
    size = model.config.vocab_size
    kinds = [_USER_DEFINED, _CONTROL]
    types = [
        kinds[vocabulary.added[id_]]
        if id_ in vocabulary.added
        else (_NORMAL if id_ in vocabulary.tokens else _UNUSED)
        for id_ in range(size)
    ]
    fields: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        # Embeddings beyond the vocabulary need names of their own.
        "tokenizer.ggml.tokens": [vocabulary.tokens.get(n, f"[PAD{n}]") for n in range(size)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in vocabulary.merges],
        "tokenizer.ggml.eos_token_id": model.tokenizer.control_id(TURN_END),
        "tokenizer.ggml.padding_token_id": model.tokenizer.control_id("<|endoftext|>"),
        "tokenizer.ggml.bos_token_id": model.tokenizer.control_id("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
    }
    return {**fields, "tokenizer.chat_template": _chat_template(model, prompting)}


def _chat_template(model: CheckedModel, prompting: Prompting) -> str:
    """Return the model's own template with its trained default; danlu's where it has none."""
    found = template_text(model.folder)
    if found is None and prompting.template != "qwen3":
        raise UsageError(
            _("The model folder {folder} has no chat template.").format(folder=model.folder),
            why=_(
                "It is prompted with {template}, which other programs take from the model."
            ).format(template=prompting.template),
            fix=_("Copy chat_template.jinja from the model you started from."),
        )
    own = Path(danlu.__file__).parent / STARTER / TEMPLATE_FILE
    text = own.read_text(encoding="utf-8") if found is None else found[1]
    data = text.encode("utf-8")
    return with_default(TEMPLATE_FILE, data, at_once=prompting.answers_at_once).decode("utf-8")


def _tensors(model: CheckedModel, type: MatrixType) -> list[GgufTensor]:
    tensors = []
    for pieces in layout(model.config).values():
        for piece in pieces:
            shape = piece.shape
            kind: GgufType = "f32" if len(shape) == 1 else type
            if kind == "q8_0" and shape[-1] % Q8_BLOCK:
                kind = "bf16"
            name = _gguf_name(piece.hf_name)
            tensors.append(GgufTensor(name=name, source=piece.hf_name, shape=shape, type=kind))
    return tensors


def _gguf_name(hf_name: str) -> str:
    module = hf_name.removesuffix(".weight")
    if module in _OUTSIDE:
        return f"{_OUTSIDE[module]}.weight"
    layer, _dot, inner = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_IN_LAYER[inner]}.weight"


def _reader(
    model: CheckedModel, tensors: list[GgufTensor], progress: Progress
) -> Callable[[str], Tensor]:
    sizes = {tensor.source: tensor.num_bytes for tensor in tensors}
    total, done = sum(sizes.values()), 0

    def fetch(name: str) -> Tensor:
        nonlocal done
        progress(_("writing"), done, total)
        done += sizes[name]
        return model.weights.files[name].read(name)

    return fetch
