"""Argument checks of the operators: a message names the argument, what it was, what is wanted."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def integers(name: str, values) -> tuple:
    """Return `values` as a tuple of integers, symbolic ones included; TypeError naming them
    otherwise.
    """
    try:
        values = tuple(values)
    except TypeError:
        raise TypeError(f"{name}: got {values!r}, want a sequence of integers") from None
    if any(isinstance(value, (float, str, Tensor)) and not _is_number(value) for value in values):
        raise TypeError(f"{name}: got {values}, want integers")
    return values


def _is_number(value) -> bool:
    """Whether it is a tensor of one integer, as a tracer's numbers are."""
    return isinstance(value, Tensor) and not value.dim() and not value.is_floating_point()


def check_plain(name: str, value) -> None:
    """Refuse a tensor of several numbers in the place of one; a tracer's are of one."""
    if isinstance(value, Tensor) and value.dim():
        raise TypeError(f"{name}: got a tensor of shape {tuple(value.shape)}, want a number")


def check_tensor(name: str, x) -> None:
    """Refuse an argument that is no tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, want a torch.Tensor")


def check_real(name: str, dtype: torch.dtype, shape, axes: int) -> None:
    """Refuse a dtype that is not real and floating, and a shape other than (B, C, *S) with 1 to 3
    `axes`.
    """
    if dtype not in FLOATS:
        raise TypeError(f"{name}: got dtype {dtype}, want float32, float64, float16 or bfloat16")
    if not 1 <= axes <= 3:
        raise ValueError(f"modes: got {axes} axes, want 1, 2 or 3")
    if len(shape) != axes + 2:
        raise ValueError(
            f"{name}: got shape {tuple(shape)}, want (B, C, *S) with {axes} axes S, the modes'"
        )


def check_modes(modes, sizes, two_sided: bool, what: str) -> None:
    """Refuse modes that are not 1 to the bins of a grid; `what` says whose grid."""
    for axis, (m, n) in enumerate(zip(modes, sizes, strict=True)):
        most = n // 2 + 1 if axis == len(sizes) - 1 else n
        if not 1 <= m <= most:
            raise ValueError(
                f"modes: got {m} on axis {axis}, want 1 to {most}, the bins of {what} size {n}"
            )


def check_norm(norm: str, two_sided: bool) -> None:
    """Refuse a norm that torch.fft does not have, and a two_sided that is several numbers."""
    check_plain("two_sided", two_sided)
    if norm not in ("backward", "ortho", "forward"):
        raise ValueError(f"norm: got {norm!r}, want 'backward', 'ortho' or 'forward'")


def check_sizes(sizes, axes: int) -> tuple:
    """Return the sizes of a grid with so many axes, as integers."""
    sizes = integers("sizes", sizes)
    if len(sizes) != axes or any(n < 1 for n in sizes):
        raise ValueError(f"sizes: got {sizes}, want {axes} positive sizes")
    return sizes


def check_pairs(name: str, shape, dtype: torch.dtype) -> tuple:
    """Return the shape of a complex tensor as a real one with a trailing 2, which it may be too."""
    if dtype.is_complex:
        return (*shape, 2)
    if dtype not in FLOATS or len(shape) < 1 or shape[-1] != 2:
        raise TypeError(
            f"{name}: got {dtype} of shape {tuple(shape)}, want complex, or real with a trailing "
            "axis of 2"
        )
    return shape


def check_weight(channels: int, shape, bias, groups: int, modes) -> None:
    """Refuse channels, groups and mode axes that do not fit a weight's shape. bias: its shape and
    dtype, or None.
    """
    check_plain("groups", groups)
    if groups < 1 or channels % groups or shape[1] % groups:
        raise ValueError(
            f"groups: got {groups}, want a divisor of {channels} input and {shape[1]} output "
            f"channels"
        )
    if shape[0] != channels // groups:
        raise ValueError(
            f"weight: got {shape[0]} input channels, "
            f"want {channels} // groups = {channels // groups}"
        )
    if any(have != 1 and have != want for have, want in zip(shape[2:], modes, strict=True)):
        raise ValueError(
            f"weight: got mode axes {shape[2:]}, want {tuple(modes)}, "
            "or 1 where a matrix is shared by all modes"
        )
    if bias is not None and tuple(bias[0]) != (shape[1],):
        raise ValueError(f"bias: got shape {tuple(bias[0])}, want ({shape[1]},)")
    if bias is not None and bias[1] not in FLOATS:
        raise TypeError(f"bias: got dtype {bias[1]}, want float32, float64, float16 or bfloat16")


def check_device(x: Tensor, **others: Tensor | None) -> None:
    """Refuse tensors that are not on x's device."""
    check_devices(x.device, **{n: None if t is None else t.device for n, t in others.items()})


def check_devices(device: torch.device, **others: torch.device | None) -> None:
    """Refuse devices other than x's."""
    for name, other in others.items():
        if other is not None and other != device:
            raise ValueError(f"{name}: is on {other}, want x's device {device}")


def check_skip(x: Tensor, skip_weight: Tensor, outputs: int, groups: int) -> None:
    """Refuse a skip weight that is no (outputs, x's channels / groups)."""
    check_tensor("skip_weight", skip_weight)
    want = (outputs, x.shape[1] // groups)
    if tuple(skip_weight.shape) != want:
        raise ValueError(f"skip_weight: got shape {tuple(skip_weight.shape)}, want {want}")
    if skip_weight.dtype not in FLOATS:
        raise TypeError(f"skip_weight: got dtype {skip_weight.dtype}, want a real floating one")
    check_device(x, skip_weight=skip_weight)


def check_vectors(x: Tensor, channels: int, **vectors: Tensor) -> None:
    """Refuse vectors that are not real, of `channels` numbers and on x's device."""
    for name, vector in vectors.items():
        check_tensor(name, vector)
        if vector.dtype not in FLOATS:
            raise TypeError(f"{name}: got dtype {vector.dtype}, want a real floating one")
        if tuple(vector.shape) != (channels,):
            raise ValueError(f"{name}: got shape {tuple(vector.shape)}, want ({channels},)")
    check_device(x, **vectors)


def check_batch_norm(
    x, weight, norm_weight, norm_bias, running_mean, running_var, training, momentum, eps
) -> None:
    """Refuse arguments of a Fourier unit's normalisation that do not fit its weight."""
    channels = weight.shape[0]
    for name, value in (("training", training), ("momentum", momentum), ("eps", eps)):
        check_plain(name, value)
        if isinstance(value, int | float) and not abs(value) <= 1e18:
            raise ValueError(f"{name}: got {value}, want a number within 1e18")
    check_vectors(x, channels, norm_weight=norm_weight, norm_bias=norm_bias)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean, running_var: got one of the two, want both or neither")
    if running_mean is not None:
        check_vectors(x, channels, running_mean=running_mean, running_var=running_var)
    elif not training:
        raise ValueError("running_mean: got None, want the running statistics where not training")
