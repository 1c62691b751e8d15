"""`--engine vllm`: which settings of the server vLLM gets, and which it has no counterpart for."""

from __future__ import annotations

from collections.abc import Collection

from danlu.errors import UsageError
from danlu.export.vllm import VllmServer
from danlu.language import _
from danlu.server.lifecycle.opening import model_of, name_of
from danlu.server.served_adapters import AdapterFolders
from danlu.server.settings import ServeSettings

# What vLLM has no counterpart for, or does in its own way.
_OURS_ONLY = (
    *("adapter_dir", "allowed_host", "max_queue", "max_requests_per_key", "max_body_bytes"),
    *("cache_tokens", "quantization", "device", "drain_s", "log_prompts"),
)


def vllm_server(settings: ServeSettings, given: Collection[str]) -> VllmServer:
    """Translate the settings. given: those that were not left at their default.

    Raises UsageError for one that vLLM does not have.
    """
    for name in _OURS_ONLY:
        if name in given:
            raise UsageError(
                _("--{name} has no meaning with --engine vllm.").format(name=name),
                why=_("vLLM has no such setting, or does it in its own way."),
                fix=_("Leave one of the two out."),
            )
    folders = AdapterFolders.of(settings.adapter)
    return VllmServer(
        model=model_of(settings, folders),
        served_name=name_of(settings, folders),
        host=settings.host,
        port=settings.port,
        dtype=settings.dtype,
        adapters=folders.named,
        template=settings.template,
        enable_thinking=settings.enable_thinking,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs if "max_num_seqs" in given else None,
        tensor_parallel_size=settings.tensor_parallel_size,
        pipeline_parallel_size=settings.pipeline_parallel_size,
        allowed_origins=settings.allowed_origin,
    )
