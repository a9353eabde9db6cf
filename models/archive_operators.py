"""Which operators a handed-over graph may use: arithmetic on tensors, nothing that reads files, draws lots or leaves torch.

An allow-list, because torch has some 1600 ``aten`` operators and among them are ``from_file`` (maps any file into memory), ``empty``
(shows what lay in memory before) and every random generator (no golden vector could hold). Add a name when a model needs it.
"""

import re

_POINTWISE = """
abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
bitwise_xor ceil celu clamp clamp_max clamp_min clip copysign cos cosh deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1
float_power floor floor_divide fmax fmin fmod frac ge gelu glu greater gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot isfinite
isinf isnan isneginf isposinf ldexp le leaky_relu lerp less lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logical_and
logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative positive pow prelu
rad2deg reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink
special_entr special_erfcx special_expit special_log_ndtr special_ndtri special_xlog1py sqrt square sub subtract tan tanh threshold true_divide
trunc where xlogy
__and__ __or__ __xor__ __rshift__ __lshift__
"""
_REDUCING = """
all amax amin aminmax any argmax argmin argsort bincount count_nonzero cummax cummin cumprod cumsum diff frobenius_norm histc kthvalue
linalg_norm linalg_vector_norm logcumsumexp logsumexp max mean median min mode msort nanmean nanmedian nanquantile nansum norm prod quantile
sort std std_mean sum topk trapezoid unique_consecutive var var_mean
"""
_SHAPING = """
alias as_strided atleast_1d atleast_2d broadcast_to cat chunk clone concat contiguous constant_pad_nd copy detach detach_ diag_embed diagonal
dropout expand expand_as feature_dropout fill flatten flip gather hstack im2col index index_add index_copy index_put index_select
is_same_size lift_fresh lift_fresh_copy masked_scatter masked_select meshgrid movedim moveaxis narrow nonzero nonzero_numpy numpy_T pad permute pixel_shuffle
pixel_unshuffle ravel reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad1d replication_pad2d reshape reshape_as roll
scatter scatter_add scatter_reduce select select_scatter slice slice_scatter split split_with_sizes squeeze stack swapaxes swapdims t
take_along_dim tensor_split tile to _to_copy transpose tril triu type_as unbind unflatten unfold unsafe_chunk unsafe_split unsqueeze vstack
view view_as zero
"""
_MAKING = """
arange eye full full_like linspace logspace new_full new_ones new_zeros one_hot ones ones_like scalar_tensor zeros zeros_like _assert_scalar
_assert_tensor_metadata item _local_scalar_dense sym_constrain_range sym_constrain_range_for_size sym_numel sym_size sym_storage_offset
sym_stride bucketize searchsorted tril_indices triu_indices
"""
_LEARNT = """
_adaptive_avg_pool2d _convolution _convolution_mode _log_softmax _native_batch_norm_legit_no_training _scaled_dot_product_flash_attention_for_cpu
_softmax adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d addbmm addmm addmv avg_pool1d avg_pool2d baddbmm batch_norm bilinear bmm
cdist conv1d conv2d conv3d conv_transpose1d conv_transpose2d convolution cosine_similarity cross dot einsum embedding fft_fft fft_fftfreq fft_fftshift
fft_ifft fft_ifftshift fft_irfft fft_rfft fft_rfftfreq grid_sampler_2d group_norm gru gru_cell inner instance_norm kron layer_norm linalg_cross
linear log_softmax lstm lstm_cell matmul max_pool1d max_pool2d max_pool2d_with_indices mm mv native_group_norm native_layer_norm outer
pairwise_distance real imag abs angle view_as_real view_as_complex rms_norm rnn_relu rnn_tanh scaled_dot_product_attention softmax softmin tensordot
upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
"""
ATEN = frozenset(f"{_POINTWISE}{_REDUCING}{_SHAPING}{_MAKING}{_LEARNT}".split())
"""Names under torch.ops.aten; every one may also be used in place (``relu`` and ``relu_``)."""

SYMBOLIC = frozenset(
    [
        f"_operator.{name}"
        for name in ["eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "mul", "add", "sub", "floordiv", "mod", "truediv", "and_", "or_"]
    ]
    + [f"torch.sym_{name}" for name in ["not", "int", "float", "ite", "max", "min", "sqrt"]]
    + ["math.trunc"]
)
"""Arithmetic on lengths. No powers and shifts: a row count has no use for them and they can be made to take forever."""

WRAPPERS = frozenset(["torch.ops.higher_order.wrap_with_set_grad_enabled", "torch.ops.higher_order.cond"])
"""``with torch.no_grad()`` and ``torch.cond``: they carry graphs, which are checked like the outer one."""

_OPERATOR = re.compile(r"torch\.ops\.aten\.([a-zA-Z0-9_]{1,80})\.([a-zA-Z][a-zA-Z0-9_]{0,80})")


def is_known(target: str) -> bool:
    """Return whether ``target``, which torch looks up attribute by attribute, names an operator of the lists above.

    >>> is_known("torch.ops.aten.add.Tensor"), is_known("torch.ops.aten.from_file.default"), is_known("torch.load")
    (True, False, False)
    """
    if target in SYMBOLIC or target in WRAPPERS:
        return True
    match = _OPERATOR.fullmatch(target)
    name = match[1] if match else ""
    return name in ATEN or (name.endswith("_") and name[:-1] in ATEN and not name.endswith("__"))
