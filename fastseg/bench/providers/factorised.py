"""The spectral convolution with a weight in factors, and neuraloperator's two ways to apply it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from fastseg import ops
from fastseg.bench.case import FactorisedCase
from fastseg.bench.layers import Family, Inputs, Layer, Unavailable, normal, wide_of
from fastseg.ops import dispatch

# the dense weight by einsum from its factors, modes a and b (and c); TT's ends are axes of 1
_EQUATIONS = {
    "Tucker": "IO{old},iI,oO,{factors}->io{new}",
    "CP": "r,ir,or,{factors}->io{new}",
    "TT": "piq,qos,{factors}->io{new}",
}


def _module(case: FactorisedCase, implementation: str | None = None):
    """The layer, with numbers of its own: ours, or the peer's with an implementation."""
    channels, last = case.shape[1], 2 * (case.modes[-1] - 1)
    options = {"factorization": case.kind, "rank": case.rank, "bias": False,
               "fft_norm": "backward"}  # fmt: skip
    totals = (*case.modes[:-1], last)
    try:
        if implementation is None:
            from fastseg.nn import NeuralopSpectralConv

            return NeuralopSpectralConv(channels, channels, totals, **options)
        from neuralop.layers.spectral_convolution import SpectralConv
    except ImportError as error:
        raise Unavailable(
            f"neuraloperator, of fastseg-mri[bench], does not import ({error})"
        ) from error
    return SpectralConv(channels, channels, totals, implementation=implementation, **options)


def _draw(case: FactorisedCase, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """Normal x and dy; factors that keep the output's scale near one."""
    x, dy = (normal(case.shape, generator, dtype) for _ in range(2))
    shapes = [tuple(p.shape) for p in _module(case).parameters()]
    spread = [normal(shape, generator, wide_of(dtype)) for shape in shapes]
    dense = _dense(case, spread)
    scale = (dense.abs().square().mean().sqrt() * case.shape[1] ** 0.5) ** (-1 / len(shapes))
    return Inputs((x,), tuple(float(scale) * part for part in spread), (dy,))


def _dense(case: FactorisedCase, weights: Sequence[Tensor]) -> Tensor:
    """The dense weight (C, C, *modes), in torch.fft's order, from the factors alone."""
    parts = [torch.view_as_complex(weight) for weight in weights]
    names = [name for name, _ in _module(case).weight.named_parameters()]
    first = [part for name, part in zip(names, parts, strict=True) if "." not in name]
    factors = [part for name, part in zip(names, parts, strict=True) if "." in name]
    new, old = "abc"[: len(case.modes)], "ABC"[: len(case.modes)]
    chain = "stuvw"
    modes = {
        "Tucker": [n + m for n, m in zip(new, old, strict=True)],
        "CP": [f"{n}r" for n in new],
        "TT": [chain[i] + n + chain[i + 1] for i, n in enumerate(new)],
    }[case.kind]
    equation = _EQUATIONS[case.kind].format(old=old, new=new, factors=",".join(modes))
    dense = torch.einsum(equation, *first, *factors)
    return torch.fft.ifftshift(dense, dim=tuple(range(2, dense.dim() - 1)))


def _operator(namespace, case: FactorisedCase, constants):
    if namespace is not ops:
        return lambda x, weights, training: namespace.spectral_conv(x[0], _dense(case, weights))
    layer = _module(case).to("meta")
    names = [name for name, _ in layer.named_parameters()]

    def run(x, weights, training):
        return functional_call(layer, dict(zip(names, weights, strict=True)), x)

    return run


def _picks(setting: str, case: FactorisedCase, device: str, dtype: torch.dtype) -> str:
    return dispatch.select_spectral(setting, device, dtype, case.sizes, case.sizes, case.modes)


def _theirs(implementation: str):
    def build(case: FactorisedCase, inputs: Inputs) -> Layer:
        module, names = _module(case, implementation), dict(_module(case).named_parameters())
        module = module.to(inputs.x[0].device)
        theirs = dict(module.named_parameters())
        with torch.no_grad():
            for name, weight in zip(names, inputs.weights, strict=True):
                theirs[name].copy_(torch.view_as_complex(weight))
        parameters = tuple(theirs[name] for name in names)

        def weight_gradients(gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(torch.view_as_real(g.resolve_conj()) for g in gradients)

        return Layer(module, parameters, weight_gradients, "torch.fft")

    return build


_RIVALS = {word: _theirs(word) for word in ("factorized", "reconstructed")}
FACTORISED = Family(_operator, _draw, _picks, lambda case: _RIVALS)
