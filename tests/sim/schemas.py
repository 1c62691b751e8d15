"""The fused operations that danlu calls, as torch_npu declares them.

Read out of libtorch_npu.so of the wheels in VERSIONS, which declare these alike. Older ones lack
some of the last arguments, so danlu passes by keyword and only what it needs.
"""

from __future__ import annotations

VERSIONS = ("2.10.0.post4", "2.14")
SCHEMAS = tuple(
    " ".join(schema.split())
    for schema in """
npu_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)

npu_add_rms_norm(Tensor x1, Tensor x2, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor,
    Tensor)

npu_rms_norm_backward(Tensor dy, Tensor input, Tensor gamma, Tensor rstd) -> (Tensor, Tensor)

npu_rotary_mul(Tensor input, Tensor r1, Tensor r2, str rotary_mode='half', Tensor? rotate=None) ->
    Tensor

npu_swiglu(Tensor input, int dim=-1) -> Tensor

npu_swiglu_backward(Tensor grad_output, Tensor input, int dim=-1) -> Tensor

npu_fusion_attention(Tensor query, Tensor key, Tensor value, int head_num, str input_layout, Tensor?
    pse=None, Tensor? padding_mask=None, Tensor? atten_mask=None, float scale=1., float
    keep_prob=1., int pre_tockens=2147483647, int next_tockens=2147483647, int inner_precise=0,
    int[]? prefix=None, int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None, int
    sparse_mode=0, bool gen_mask_parallel=True, bool sync=False, str softmax_layout="", Tensor?
    sink=None, Tensor? dropout_mask=None, int seed=0, int offset=0) -> (Tensor, Tensor, Tensor,
    Tensor, int, int, int)

npu_fusion_attention_grad(Tensor query, Tensor key, Tensor value, Tensor dy, int head_num, str
    input_layout, *, Tensor? pse=None, Tensor? padding_mask=None, Tensor? atten_mask=None, Tensor?
    softmax_max=None, Tensor? softmax_sum=None, Tensor? softmax_in=None, Tensor? attention_in=None,
    float scale_value=1., float keep_prob=1., int pre_tockens=2147483647, int
    next_tockens=2147483647, int inner_precise=0, int seed=0, int offset=0, int numels=0, int[]?
    prefix=None, int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None, int sparse_mode=0, bool
    gen_mask_parallel=True, bool sync=False, str softmax_layout="", Tensor? sink=None) -> (Tensor,
    Tensor, Tensor, Tensor, Tensor)

npu_scatter_pa_kv_cache(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache,
    Tensor slot_mapping, *, Tensor? compress_lens=None, Tensor? compress_seq_offsets=None, Tensor?
    seq_lens=None, str? cache_mode='PA_NZ') -> ()

npu_fused_infer_attention_score(Tensor query, Tensor key, Tensor value, *, Tensor? pse_shift=None,
    Tensor? atten_mask=None, SymInt[]? actual_seq_lengths=None, SymInt[]?
    actual_seq_lengths_kv=None, Tensor? dequant_scale1=None, Tensor? quant_scale1=None, Tensor?
    dequant_scale2=None, Tensor? quant_scale2=None, Tensor? quant_offset2=None, Tensor?
    antiquant_scale=None, Tensor? antiquant_offset=None, Tensor? key_antiquant_scale=None, Tensor?
    key_antiquant_offset=None, Tensor? value_antiquant_scale=None, Tensor?
    value_antiquant_offset=None, Tensor? block_table=None, Tensor? query_padding_size=None, Tensor?
    kv_padding_size=None, Tensor? key_shared_prefix=None, Tensor? value_shared_prefix=None,
    SymInt[]? actual_shared_prefix_len=None, Tensor? query_rope=None, Tensor? key_rope=None, Tensor?
    key_rope_antiquant_scale=None, int num_heads=1, float scale=1.0, int pre_tokens=2147483647, int
    next_tokens=2147483647, str input_layout="BSH", int num_key_value_heads=0, int sparse_mode=0,
    int inner_precise=0, int block_size=0, int antiquant_mode=0, int key_antiquant_mode=0, int
    value_antiquant_mode=0, bool softmax_lse_flag=False) -> (Tensor, Tensor)

npu_weight_quant_batchmatmul(Tensor x, Tensor weight, Tensor antiquant_scale, Tensor?
    antiquant_offset=None, Tensor? quant_scale=None, Tensor? quant_offset=None, Tensor? bias=None,
    int antiquant_group_size=0, int inner_precise=0, int? weight_dtype=None) -> Tensor

npu_grouped_matmul(Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None, Tensor[]? scale=None,
    Tensor[]? offset=None, Tensor[]? antiquant_scale=None, Tensor[]? antiquant_offset=None,
    Tensor[]? per_token_scale=None, Tensor? group_list=None, Tensor[]? activation_input=None,
    Tensor[]? activation_quant_scale=None, Tensor[]? activation_quant_offset=None, int?
    split_item=0, int? group_type=None, int? group_list_type=0, int? act_type=0, int[]?
    tuning_config=None, int? output_dtype=None, int? x_dtype=None, int? weight_dtype=None, int?
    scale_dtype=None, int? per_token_scale_dtype=None) -> Tensor[]

npu_top_k_top_p(Tensor logits, Tensor? p=None, Tensor? k=None) -> Tensor
""".strip().split("\n\n")
)
