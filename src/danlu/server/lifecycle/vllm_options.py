"""The options of `vllm serve`, by name, in the versions that are current. Data only.

Read on 28 November 2026 from the wheels of vLLM 0.23.0, 0.24.0, 0.25.1, 0.26.0, 0.27.1, 0.28.0,
0.29.0, 0.30.0, 0.31.0, 0.32.0 and 0.33.0: vllm/engine/arg_utils.py, and cli_args.py in
vllm/entrypoints/openai, from 0.29 on in vllm/entrypoints/launchers, in 0.33 in
vllm/entrypoints/common. vllm-ascend adds none (0.23.0 and 0.26.0rc1 were read).
"""

from __future__ import annotations

from collections.abc import Mapping

# The first and the last that were read: 0.23 and 0.33.
FIRST, LAST = 23, 33
_ALWAYS = (
    "additional-config aggregate-engine-logging all2all-backend allow-credentials "
    "allow-deprecated-quantization allowed-headers allowed-local-media-path "
    "allowed-media-domains allowed-methods allowed-origins api-key api-server-count "
    "async-scheduling attention-backend attention-config block-size chat-template "
    "chat-template-content-format code-revision collect-detailed-traces compilation-config "
    "config config-format convert cp-kv-cache-interleave-size cpu-distributed-timeout-seconds "
    "cpu-offload-gb cpu-offload-params cudagraph-capture-sizes cudagraph-metrics "
    "data-parallel-address data-parallel-backend data-parallel-external-lb "
    "data-parallel-hybrid-lb data-parallel-multi-port-external-lb data-parallel-rank "
    "data-parallel-rpc-port data-parallel-size data-parallel-size-local "
    "data-parallel-start-rank data-parallel-supervisor-port dbo-decode-token-threshold "
    "dbo-prefill-token-threshold dcp-comm-backend dcp-kv-cache-interleave-size "
    "decode-context-parallel-size default-chat-template-kwargs default-mm-loras "
    "disable-access-log-for-endpoints disable-cascade-attn disable-chunked-mm-input "
    "disable-custom-all-reduce disable-fastapi-docs disable-hybrid-kv-cache-manager "
    "disable-log-stats disable-nccl-for-dp-synchronization disable-sliding-window "
    "disable-uvicorn-access-log distributed-executor-backend distributed-timeout-seconds "
    "download-dir dp-supervisor-probe-failure-threshold dp-supervisor-probe-interval-s "
    "dp-supervisor-probe-timeout-s dtype ec-transfer-config enable-auto-tool-choice "
    "enable-chunked-prefill enable-cumem-allocator enable-dbo enable-elastic-ep "
    "enable-ep-weight-filter enable-eplb enable-expert-parallel enable-flash-late-interaction "
    "enable-flashinfer-autotune enable-force-include-usage enable-layerwise-nvtx-tracing "
    "enable-log-deltas enable-log-outputs enable-log-requests "
    "enable-logging-iteration-details enable-lora enable-mamba-cache-stochastic-rounding "
    "enable-mfu-metrics enable-mixed-moe-lora-format enable-mm-embeds enable-offline-docs "
    "enable-prefix-caching enable-prompt-embeds enable-prompt-tokens-details "
    "enable-request-id-headers enable-return-routed-experts enable-server-load-tracking "
    "enable-sleep-mode enable-ssl-refresh enable-tokenizer-info-endpoint "
    "enable-tower-connector-lora enforce-eager eplb-config "
    "exclude-tools-when-tool-choice-none expert-placement-strategy fail-on-environ-validation "
    "fingerprint-mode fingerprint-value fully-sharded-loras gdn-prefill-backend "
    "generation-config gpu-memory-utilization grpc h11-max-header-count "
    "h11-max-incomplete-event-size headless hf-config-path hf-overrides hf-token host "
    "ignore-patterns interleave-mm-strings io-processor-plugin ir-op-priority kernel-config "
    "kv-cache-dtype kv-cache-dtype-skip-layers kv-cache-memory-bytes kv-cache-metrics "
    "kv-cache-metrics-sample kv-events-config kv-offloading-backend kv-offloading-size "
    "kv-sharing-fast-prefill kv-transfer-config language-model-only limit-mm-per-prompt "
    "linear-backend load-format log-config-file log-error-stack logits-processors "
    "logprobs-mode long-prefill-token-threshold lora-dtype lora-modules lora-target-modules "
    "mamba-backend mamba-block-size mamba-cache-dtype mamba-cache-mode "
    "mamba-cache-philox-rounds mamba-ssm-cache-dtype master-addr master-port max-cpu-loras "
    "max-cudagraph-capture-size max-log-len max-logprobs max-lora-rank max-loras "
    "max-model-len max-num-batched-tokens max-num-seqs max-parallel-loading-workers "
    "media-io-kwargs middleware mm-encoder-attn-backend mm-encoder-attn-dtype "
    "mm-encoder-fp8-scale-path mm-encoder-fp8-scale-save-margin "
    "mm-encoder-fp8-scale-save-path mm-encoder-only mm-encoder-tp-mode mm-processor-cache-gb "
    "mm-processor-cache-type mm-processor-kwargs mm-shm-cache-max-object-size-mb "
    "mm-tensor-ipc model model-impl model-loader-extra-config moe-backend nnodes node-rank "
    "num-gpu-blocks-override numa-bind numa-bind-cpus numa-bind-nodes offload-backend "
    "offload-group-size offload-num-in-group offload-params offload-prefetch-step "
    "optimization-level otlp-traces-endpoint override-generation-config performance-mode "
    "pipeline-parallel-size pooler-config port prefill-context-parallel-size "
    "prefix-caching-hash-algo profiler-config pt-load-map-location quantization "
    "quantization-config ray-workers-use-nsight reasoning-config reasoning-parser "
    "reasoning-parser-plugin renderer-num-workers response-role return-tokens-as-token-ids "
    "revision root-path runner safetensors-load-strategy safetensors-prefetch-block-size "
    "safetensors-prefetch-num-threads scheduler-cls scheduler-reserve-full-isl "
    "scheduling-policy seed served-model-name show-hidden-metrics-for-version "
    "shutdown-timeout skip-mm-profiling skip-tokenizer-init spec-method spec-model "
    "spec-tokens specialize-active-lora speculative-config ssl-ca-certs ssl-cert-reqs "
    "ssl-certfile ssl-ciphers ssl-keyfile stream-interval structured-outputs-config "
    "tensor-parallel-size tokenizer tokenizer-mode tokenizer-revision tokens-only "
    "tool-call-parser tool-parser-plugin tool-server trust-remote-code "
    "trust-request-chat-template ubatch-size uds use-fp64-gumbel use-tqdm-on-load "
    "uvicorn-log-level video-pruning-rate weight-transfer-config worker-cls "
    "worker-extension-cls "
)
# Those that not all of these versions have, by the first and the last one that does.
_SOMETIMES: Mapping[tuple[int, int], str] = {
    (23, 26): "max-long-partial-prefills max-num-partial-prefills",
    (23, 27): "calculate-kv-scales override-attention-dtype",
    (24, 33): (
        "device-ids diffusion-config jit-monitor-verbose prefill-schedule-interval watermark "
    ),
    (25, 33): (
        "enable-per-request-metrics jit-monitor-mode mm-ipc-gpu-memory-gb model-class-overrides "
    ),
    (26, 29): "enable-bf16x3-router-gemm",
    (26, 33): "enable-moe-shared-loras max-num-scheduled-tokens prefix-match-unit",
    (27, 33): (
        "cohere-format cohere-is-reasoning-model enable-fault-tolerance "
        "fault-tolerance-config kda-prefill-backend mamba-ssu-algorithm mm-hasher-algorithm "
        "replayssm-buffer-len use-replayssm video-pruning-method "
    ),
    (28, 33): (
        "ec-manager-config mm-device-do-normalize mm-processor-device return-sampling-mask "
    ),
    (29, 33): (
        "dcp-q-replicate enable-batch-sharded-sampling enable-trace-replay "
        "max-num-queued-reqs max-num-queued-tokens per-request-spec-decode-metrics "
        "prefix-cache-retention-interval sse-keep-alive-interval "
    ),
    (30, 30): "enable-mamba-fine-grained-prefix-cache",
    (30, 33): (
        "dp-sync-interval elastic-ep-max-dp-size enable-nccl-comm-suspend enable-scale-out "
        "engram-config kda-decode-backend sparse-indexer-topk-backend watermark-config "
    ),
    (31, 33): (
        "anthropic-disabled-thinking-effort aux-output-config device-memory-utilization "
        "enable-mamba-shared-prefix-checkpoint log-level logging-config "
        "long-prefill-token-threshold-adaptive max-lora-cls-labels max-num-active-seqs "
        "sleep-preserve-parameter-names swa-bounded-replay tool-strict-level "
        "trust-request-mm-kwargs "
    ),
    (32, 33): (
        "custom-histogram-buckets enable-hc-sp enable-shm-tensor-arena grpc-port "
        "sleep-mode-offload-cudagraph "
    ),
    (33, 33): "monokernel reasoning-effort-map sleep-mode-backend watchdog-config",
}
_SHORT = (
    "ac=attention-config asc=api-server-count cc=compilation-config dc=diffusion-config "
    "dcp=decode-context-parallel-size dp=data-parallel-size dpa=data-parallel-address "
    "dpb=data-parallel-backend dpe=data-parallel-external-lb dph=data-parallel-hybrid-lb "
    "dpl=data-parallel-size-local dpm=data-parallel-multi-port-external-lb "
    "dpn=data-parallel-rank dpp=data-parallel-rpc-port dpr=data-parallel-start-rank "
    "ep=enable-expert-parallel n=nnodes pcp=prefill-context-parallel-size "
    "pp=pipeline-parallel-size q=quantization r=node-rank sc=speculative-config "
    "tp=tensor-parallel-size "
)
# By name, without dashes: the first and the last version that has it.
OPTIONS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(_ALWAYS.split(), (FIRST, LAST)),
    **{name: versions for versions, names in _SOMETIMES.items() for name in names.split()},
}
# What they are called after a single dash.
SHORT: Mapping[str, str] = {
    "O": "optimization-level",  # its level may follow at once
    **dict(pair.split("=") for pair in _SHORT.split()),
}
