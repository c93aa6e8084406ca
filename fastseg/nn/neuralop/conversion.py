"""Models of neuraloperator with our layers in place of theirs, and back."""

from collections.abc import Callable

import torch
from torch import nn

from fastseg.nn.neuralop.layer import NeuralopSpectralConv
from fastseg.nn.neuralop.weights import Dense, Weight

_PEER = ("neuralop.layers.spectral_convolution", "SpectralConv")
_SAME = ("in_channels", "out_channels", "separable", "complex_data", "fft_norm", "rank",
         "fno_block_precision", "factorization", "implementation", "resolution_scaling_factor",
         "training")  # fmt: skip


def _is_peers(module: nn.Module) -> bool:
    return (type(module).__module__, type(module).__name__) == _PEER


def _exchanged(model: nn.Module, chosen: Callable, make: Callable, wanted: str) -> nn.Module:
    """Replace every chosen module of a model by what `make` makes of it, once each."""
    made = {id(module): make(module) for module in model.modules() if chosen(module)}
    if not made:
        raise ValueError(f"model: got {type(model).__name__}, want one with {wanted}")
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in made:
                setattr(parent, name, made[id(child)])
    return made.get(id(model), model)


def _counted(options: dict, n_modes, complex_data: bool) -> dict:
    """Arguments with n_modes as the constructors count them."""
    last = n_modes[-1] if complex_data else 2 * (n_modes[-1] - 1)
    return options | {"n_modes": [*n_modes[:-1], last], "complex_data": complex_data}


def convert(model: nn.Module) -> nn.Module:
    """Replace neuraloperator's spectral convolutions in a model, trained or not, by
    `NeuralopSpectralConv` in place, and return the model.

    model: FNO, TFNO, UNO, LocalNO, CODANO, GINO, FNOGNO, RNO or any other with modules of
    `neuralop.layers.spectral_convolution.SpectralConv`, or such a layer, for which its substitute
    is returned. Outputs and gradients are those of the peer, also where it departs from the
    definition (`fastseg.nn.neuralop`). Weights are new parameters: optimisers are to be built
    afterwards; hooks on the layers are lost. Subclasses, SphericalConv (SFNO: spherical harmonics)
    and the legacy layers stay as they are. Raises ValueError for a model without such a layer.

    >>> from neuralop.models import FNO  # doctest: +SKIP
    >>> model, x = FNO((8, 8), 1, 1, hidden_channels=8), torch.randn(1, 1, 16, 16)  # doctest: +SKIP
    >>> torch.allclose(model(x), convert(model)(x), atol=1e-5)  # doctest: +SKIP
    True
    """
    return _exchanged(model, _is_peers, _ours, "a SpectralConv of neuraloperator")


def _ours(peer: nn.Module) -> NeuralopSpectralConv:
    """Our layer with the numbers of one of the peer's."""
    options = {"bias": peer.bias is not None, "max_n_modes": list(peer.max_n_modes)}
    options = _counted(options, peer.n_modes, peer.complex_data)
    layer = NeuralopSpectralConv(
        peer.in_channels, peer.out_channels, separable=peer.separable, device="meta",
        **options,
    )  # fmt: skip
    for name in _SAME:
        setattr(layer, name, getattr(peer, name))
    newer = hasattr(peer, "enforce_hermitian_symmetry")
    layer.enforce_hermitian_symmetry = getattr(peer, "enforce_hermitian_symmetry", True)
    layer.follows = "ifftshift" if newer else "fftshift"
    layer.device, layer.weight, layer.bias = peer.device, peer.weight, peer.bias
    return layer


def restore(model: nn.Module) -> nn.Module:
    """Replace every `NeuralopSpectralConv` in a model by neuraloperator's SpectralConv in place,
    the way back from `convert`, and return the model.

    model: any, or such a layer, for which the peer's is returned. Outputs are equal where the layer
    was converted, or where the installed release computes what the definition says
    (`fastseg.nn.neuralop`). Weights are new parameters. Raises ValueError for a model without such
    a layer, ImportError without neuraloperator.

    >>> from neuralop.models import FNO  # doctest: +SKIP
    >>> model = FNO((8, 8), 1, 1, 8, conv_module=NeuralopSpectralConv)  # doctest: +SKIP
    >>> type(restore(model).fno_blocks.convs[0]).__module__  # doctest: +SKIP
    'neuralop.layers.spectral_convolution'
    """
    return _exchanged(
        model, lambda module: isinstance(module, NeuralopSpectralConv), _theirs, "our layers"
    )


def _theirs(layer: NeuralopSpectralConv) -> nn.Module:
    """The peer's layer with the numbers of one of ours."""
    from neuralop.layers.spectral_convolution import SpectralConv, get_contract_fun

    options = {"bias": layer.bias is not None, "max_n_modes": list(layer.max_n_modes)}
    peer = SpectralConv(
        layer.in_channels, layer.out_channels, separable=layer.separable,
        **_counted(options, layer.n_modes, layer.complex_data),
    )  # fmt: skip
    for name in _SAME:
        setattr(peer, name, getattr(layer, name))
    if hasattr(peer, "enforce_hermitian_symmetry"):
        peer.enforce_hermitian_symmetry = layer.enforce_hermitian_symmetry
    peer.device, peer.bias = layer.device, layer.bias
    peer.weight = _factorized(layer.weight)
    peer._contract = get_contract_fun(peer.weight, layer.implementation, layer.separable)
    return peer


def _factorized(weight: Weight) -> nn.Module:
    """The peer's FactorizedTensor with the numbers of a weight of ours."""
    from tltorch.factorized_tensors.core import FactorizedTensor

    kind = FactorizedTensor._factorizations[weight.name.lower()]
    learnt = all(parameter.requires_grad for parameter in weight.parameters())

    def parameter(tensor):
        return nn.Parameter(tensor.detach().clone(), requires_grad=learnt)

    if isinstance(weight, Dense):
        return kind(parameter(weight.to_tensor()))
    listed = [parameter(torch.view_as_complex(factor)) for factor in weight.factors.values()]
    first = [parameter(torch.view_as_complex(p)) for _, p in weight.named_parameters(recurse=False)]
    return kind(*first, listed)


def neuralop_state_dict(model: nn.Module) -> dict:
    """Return a model's state dict with the entries of every `NeuralopSpectralConv` in the peer's
    format: what the same model with neuraloperator's own layers loads and saves.

    >>> layer = NeuralopSpectralConv(2, 2, (4, 4), bias=False)
    >>> {key: value.dtype for key, value in neuralop_state_dict(layer).items()}
    {'weight.tensor': torch.complex64}
    """
    state = model.state_dict()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, NeuralopSpectralConv):
            module.weight.write(state, f"{name}.weight".lstrip("."))
    return state


def spectral_conv(cls, module: nn.Module):
    """Return `cls` (nn.SpectralConv) with the weights of a dense neuraloperator layer. Raises
    ValueError for any other layer.
    """
    weight = module.weight
    if module.complex_data or module.separable:
        raise ValueError(
            "module: want a dense neuraloperator SpectralConv for real data, not separable"
        )
    tensor = getattr(weight, "tensor", weight)
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != len(module.n_modes) + 2:
        raise ValueError(
            f"module: got a {type(weight).__name__} weight, want a dense one "
            "(factorization=None or 'dense')"
        )
    bias = module.bias
    layer = cls(module.in_channels, module.out_channels, tuple(tensor.shape[2:]),
                norm=module.fft_norm, bias=bias is not None)  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(Dense("Dense", tensor, False, tensor.dim() - 3).pairs)
        if bias is not None:
            layer.bias.copy_(bias.reshape(-1))
    return layer.to(tensor.device)
