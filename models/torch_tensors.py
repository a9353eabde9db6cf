"""Arrays into tensors of a declared type and back. numpy has no bfloat16: such numbers are float32 whose lower half is zero."""

import torch

from models.tensors import BFLOAT16, Array


def tensor_of(array: Array, dtype: str, *, device: str = "cpu") -> torch.Tensor:
    """Return ``array`` on ``device`` as the declared ``dtype``; it shares memory where it can. To bfloat16 numbers are rounded, ties to even."""
    tensor = torch.from_numpy(array)
    return tensor.to(device, dtype=torch.bfloat16) if dtype == BFLOAT16 else tensor.to(device)


def array_of(tensor: torch.Tensor) -> Array:
    """Return the numbers of ``tensor``, those of bfloat16 as the same numbers in float32."""
    plain = tensor.detach().cpu()
    array: Array = (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()
    return array
