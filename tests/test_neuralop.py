"""The bridge to neuraloperator: its layers, models and checkpoints, and its own tests."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tolerances import BACKWARD, FORWARD, NEURALOP, assert_near, relative_error

from fastseg import nn, reference
from fastseg.nn.neuralop import contraction, grids
from fastseg.nn.neuralop.frequencies import all_defined, defined

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")

PEER = "neuraloperator is in the extra `bench`"
module = pytest.importorskip("neuralop.layers.spectral_convolution", reason=PEER)
neuralop = pytest.importorskip("neuralop.models", reason=PEER)
KINDS = ("CP", "Tucker", "TT")


def drawn(layer):
    """The layer with every parameter drawn anew, all of similar size."""
    with torch.no_grad():
        for parameter in layer.parameters():
            spread = 1 if parameter.dim() == 1 else parameter.shape[-1] ** -0.25
            parameter.copy_(spread * torch.randn_like(parameter))
    return layer


def peer(channels, n_modes, **options):
    return drawn(module.SpectralConv(*channels, n_modes, **options))


def stand_in(theirs, **options):
    """Our layer with the peer's checkpoint."""
    last = theirs.n_modes[-1] if theirs.complex_data else 2 * (theirs.n_modes[-1] - 1)
    ours = nn.NeuralopSpectralConv(
        theirs.in_channels, theirs.out_channels, [*theirs.n_modes[:-1], last],
        fft_norm=theirs.fft_norm, bias=theirs.bias is not None, separable=theirs.separable,
        factorization=theirs.factorization, rank=theirs.rank, complex_data=theirs.complex_data,
        **options,
    )  # fmt: skip
    ours.load_state_dict(theirs.state_dict())
    return ours


def results(model, x, grad, **options):
    """Output and all gradients, the parameters' in the peer's format."""
    x = x.clone().requires_grad_()
    y = model(x, **options)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(y, [x, *parameters.values()], grad, allow_unused=True)
    grads = dict(zip(parameters, found[1:], strict=True))
    for name, layer in model.named_modules():
        if isinstance(layer, nn.NeuralopSpectralConv):
            layer.weight.write(grads, f"{name}.weight".lstrip("."))
    return {"y": y.detach(), "x": found[0]} | grads


def assert_same(ours, theirs, x, out_channels, tolerance=NEURALOP, **options):
    with torch.no_grad():
        shape = theirs(x, **options).shape
    grad = torch.randn(shape, dtype=x.dtype)
    assert shape[1] == out_channels
    got, want = (results(model, x, grad, **options) for model in (ours, theirs))
    assert got.keys() == want.keys()
    for name, value in want.items():
        if value is not None:
            assert relative_error(got[name], value) <= tolerance, name


# one layer


EVEN_GRIDS = [
    ((16,), (6,)), ((15,), (7,)), ((8, 12), (4, 6)), ((8, 11), (5, 5)), ((10, 9), (3, 8)),
    ((4, 6, 8), (4, 4, 4)), ((6, 8, 9), (3, 5, 7)), ((8, 12), (8, 12)),
    ((4, 6, 4, 5), (3, 4, 4, 4)),
]  # fmt: skip


def in_torch_order(weight):
    dims = tuple(range(2, weight.dim() - 1))
    return torch.fft.ifftshift(weight, dim=dims) if dims else weight


@pytest.mark.parametrize(("sizes", "n_modes"), EVEN_GRIDS[:-1], ids=str)
@pytest.mark.parametrize("options", [{}, {"bias": False, "fft_norm": "ortho"}], ids=str)
def test_from_neuralop_equals_the_peer(sizes, n_modes, options):
    theirs = peer((3, 4), n_modes, **options)
    ours = nn.SpectralConv.from_neuralop(theirs)
    x, grad = torch.randn(2, 3, *sizes), torch.randn(2, 4, *sizes)
    got, want = results(ours, x, grad), results(theirs, x, grad)
    assert relative_error(got["y"], want["y"]) <= NEURALOP
    assert relative_error(got["x"], want["x"]) <= NEURALOP
    exact = in_torch_order(want["weight.tensor"])
    assert relative_error(torch.view_as_complex(got["weight"]), exact) <= NEURALOP
    with torch.no_grad():
        next(ours.parameters()).zero_()
    assert relative_error(theirs(x), want["y"]) <= NEURALOP, "weights are copied, not shared"


@pytest.mark.parametrize("sizes", [(7, 12), (9, 11), (5, 6, 8)], ids=str)
def test_on_odd_axes_the_peer_moves_every_frequency_by_a_row(sizes):
    theirs = peer((1, 1), (3,) * len(sizes), bias=False)
    with torch.no_grad():
        theirs.weight.tensor.fill_(1)
    ours = nn.SpectralConv.from_neuralop(theirs)
    constant = torch.ones(1, 1, *sizes)
    assert relative_error(ours(constant), constant) <= NEURALOP
    assert relative_error(theirs(constant), constant) > 0.1
    assert relative_error(nn.convert(theirs)(constant), theirs(constant)) <= NEURALOP


@pytest.mark.parametrize(
    "options",
    [{"separable": True}, {"factorization": "tucker", "rank": 0.5}, {"complex_data": True}],
    ids=str,
)
def test_from_neuralop_refuses_other_layers(options):
    with pytest.raises(ValueError, match="module: "):
        nn.SpectralConv.from_neuralop(peer((4, 4), (4, 4), **options))


@pytest.mark.parametrize(("sizes", "n_modes"), [EVEN_GRIDS[i] for i in (0, 3, 6, 8)], ids=str)
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_the_stand_in_equals_the_peer(sizes, n_modes, separable, kind):
    theirs = peer((4, 4), n_modes, separable=separable, factorization=kind, rank=0.6,
                  implementation="factorized" if kind == "CP" else "reconstructed")  # fmt: skip
    assert_same(stand_in(theirs), theirs, torch.randn(2, 4, *sizes), 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["forward", "ortho", "backward"])
def test_contracted_and_rebuilt_weights_are_one(kind, norm, monkeypatch):
    theirs = peer((4, 6), (4, 6), factorization=kind, rank=0.3, fft_norm=norm)
    ours, x = stand_in(theirs), torch.randn(3, 4, 8, 12)
    for answer in (True, False):
        monkeypatch.setattr(contraction, "in_modes", lambda parts, batch, is_=answer: is_)
        assert_same(ours, theirs, x, 6)
        short = x.bfloat16()
        assert_near(ours(short), ours(short.double()), FORWARD, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rule_counts_multiply_adds(kind):
    layer = nn.NeuralopSpectralConv(8, 6, (4, 4), factorization=kind, rank=0.4)
    parts = layer.weight.parts(layer.weight.all_rows())
    inputs, core, outputs, diagonal = parts
    (i, p), o = inputs.shape, 6
    q = p if diagonal else core.shape[1]
    middle, last = p if diagonal else p * q, 0 if outputs is None else q * o
    for batch in (1, 2, 5, 20, 1000):
        dense = batch * i * o + (p * i * o if diagonal else i * p * q + (i * last if last else 0))
        assert contraction.in_modes(parts, batch) == (batch * (i * p + middle + last) < dense)


@pytest.mark.parametrize("n_modes", [(4, 6), (2, 4), (6, 2)])
@pytest.mark.parametrize("kind", [None, "Tucker"])
def test_fewer_modes_take_the_centre_of_the_weight(n_modes, kind):
    theirs = peer((3, 3), (8, 8), factorization=kind)
    ours = stand_in(theirs)
    theirs.n_modes = ours.n_modes = n_modes
    assert ours.n_modes == theirs.n_modes == [n_modes[0], n_modes[1] // 2 + 1]
    x = torch.randn(2, 3, 10, 12)
    assert relative_error(ours(x), theirs(x)) <= NEURALOP
    assert list(ours.max_n_modes) == list(theirs.max_n_modes) == [8, 5]


@pytest.mark.parametrize(
    ("sizes", "n_modes", "most"),
    [((10, 12), (5, 6), (8, 8)), ((10, 12, 14), (3, 5, 6), (6, 8, 8))],
    ids=str,
)
def test_odd_modes_below_an_even_maximum_the_peer_takes_rows_one_lower(sizes, n_modes, most):
    theirs = peer((3, 3), most)
    ours, converted = stand_in(theirs), nn.convert(theirs)
    theirs.n_modes = ours.n_modes = converted.n_modes = n_modes
    x = torch.randn(2, 3, *sizes)
    exact = theirs(x)
    assert relative_error(ours(x), exact) > 0.1, "each of our rows is of its own frequency"
    assert relative_error(converted(x), exact) <= NEURALOP
    axes = tuple(range(2, 1 + len(sizes)))
    with torch.no_grad():
        theirs.weight.tensor.copy_(theirs.weight.tensor.roll([1] * len(axes), axes))
    ours.load_state_dict(theirs.state_dict())
    assert relative_error(ours(x), exact) <= NEURALOP


def test_the_stand_in_has_the_attributes_of_the_peer():
    options = {"max_n_modes": (8, 7), "resolution_scaling_factor": 2, "init_std": 0.1}
    theirs, ours = peer((3, 4), (6, 6), **options), nn.NeuralopSpectralConv(3, 4, (6, 6), **options)
    for name in ("in_channels", "out_channels", "n_modes", "order", "separable", "complex_data",
                 "fft_norm", "fno_block_precision", "rank", "implementation", "factorization",
                 "resolution_scaling_factor", "device", "dtype"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert list(ours.max_n_modes) == list(theirs.max_n_modes)
    assert ours.bias.shape == theirs.bias.shape
    assert ours.weight.shape == tuple(theirs.weight.shape)
    assert not any(parameter.is_complex() for parameter in ours.parameters())


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_a_weight_acts_as_the_complex_tensor_that_it_stands_for(kind):
    theirs = peer((3, 4), (4, 6), factorization=kind, rank=0.5)
    weight = stand_in(theirs).weight
    assert torch.is_complex(weight)
    assert torch.equal(torch.zeros_like(weight), torch.zeros(3, 4, 4, 4, dtype=torch.complex64))
    assert relative_error(weight.to_tensor(), theirs.weight.to_tensor()) <= NEURALOP
    assert relative_error(weight[:, 1:3], theirs.weight.to_tensor()[:, 1:3]) <= NEURALOP
    assert weight.dim() == weight.ndim == weight.order == 4


@pytest.mark.parametrize("name", ["Dense", "Tucker", "CP", "TT"])
def test_layers_start_like_the_peer(name):
    made = []
    for make in (module.SpectralConv, nn.NeuralopSpectralConv):
        torch.manual_seed(3)
        made.append(make(3, 4, (4, 6), factorization=name, rank=0.5))
    ours, theirs = made
    assert relative_error(ours.weight.to_tensor(), theirs.weight.to_tensor()) <= NEURALOP
    assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("factor", [2, 0.5, [1.5]])
def test_resolution_scaling_equals_the_peer_in_one_dimension(factor):
    theirs = peer((3, 3), (6,), resolution_scaling_factor=factor)
    ours = stand_in(theirs, resolution_scaling_factor=factor)
    x = torch.randn(2, 3, 16)
    assert relative_error(ours(x), theirs(x)) <= NEURALOP
    assert relative_error(ours.transform(x), theirs.transform(x)) <= NEURALOP
    assert relative_error(ours(x, output_shape=(20,)), theirs(x, output_shape=(20,))) <= NEURALOP


def test_resolution_scaling_in_two_dimensions_follows_the_definition():
    layer = nn.NeuralopSpectralConv(3, 4, (4, 6), resolution_scaling_factor=[2, 1.5])
    x = torch.randn(2, 3, 8, 10)
    weight, bias = layer.weight.dense([(2, 3, 0, 1), (0, 1, 2, 3)]), layer.bias.detach().flatten()
    exact = reference.spectral_conv(
        x.double(), weight.to(torch.complex128), bias.double(), (16, 15), norm="forward"
    )
    assert_near(layer(x), exact, FORWARD, "resolution")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factorization": "blocks"}, "factorization: got 'blocks'"),
        ({"fno_block_precision": "quarter"}, "fno_block_precision: got 'quarter'"),
        ({"implementation": "fast"}, "implementation: got 'fast'"),
        ({"separable": True}, "separable"),
    ],
    ids=str,
)
def test_the_stand_in_names_what_it_does_not_serve(options, message):
    with pytest.raises(ValueError, match=message):
        nn.NeuralopSpectralConv(3, 4, (4, 4), **options)
    with pytest.raises(ValueError, match="x: got shape"):
        nn.NeuralopSpectralConv(3, 4, (4, 4))(torch.zeros(1, 3, 8))


@pytest.mark.parametrize("precision", ["half", "mixed"])
def test_half_precision_is_computed_in_float32(precision):
    layer = nn.NeuralopSpectralConv(3, 4, (4, 4), fno_block_precision=precision)
    plain = nn.NeuralopSpectralConv(3, 4, (4, 4), enforce_hermitian_symmetry=False)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 3, 9, 7)
    assert torch.equal(layer(x), plain(x))
    assert layer(x.half()).dtype == torch.float16


# complex data and four axes


def exact(layer, x, sizes=None):
    """The definition in float64, by the whole spectrum."""
    sizes = tuple(sizes or x.shape[2:])
    dims = tuple(range(2, x.dim()))
    axes, transform = [], torch.fft.fftn if layer.complex_data else torch.fft.rfftn
    spectrum = transform(x, dim=dims, norm=layer.fft_norm)
    out = [*sizes] if layer.complex_data else [*sizes[:-1], sizes[-1] // 2 + 1]
    room = map(min, spectrum.shape[2:], out, layer.n_modes)
    for axis, (count, most) in enumerate(zip(room, layer.max_n_modes, strict=True)):
        two_sided = layer.complex_data or axis < layer.order - 1
        axes.append(defined(count, most, x.shape[2 + axis], sizes[axis], two_sided))
    full = spectrum.new_zeros(x.shape[0], layer.out_channels, *out)
    weight = layer.weight.to_tensor().to(torch.complex128)
    for places in itertools.product(*(zip(*axis, strict=True) for axis in axes)):
        row, read, written = ((..., *kept) for kept in zip(*places, strict=True))
        if layer.separable:
            full[written] = spectrum[read] * weight[row]
        else:
            full[written] = spectrum[read] @ weight[row]
    if layer.complex_data:
        y = torch.fft.ifftn(full, s=sizes, dim=dims, norm=layer.fft_norm)
    else:
        y = reference._irfftn(full, sizes, layer.fft_norm)
    return y if layer.bias is None else y + layer.bias.double()


@pytest.mark.parametrize(
    ("sizes", "n_modes"),
    [((8,), (8,)), ((9,), (4,)), ((6, 7), (4, 7)), ((6, 8), (6, 8)), ((5, 6, 7), (3, 6, 4)),
     ((4, 5, 4, 6), (2, 3, 4, 4)), ((2, 1, 2, 3, 4), (2, 1, 2, 3, 3))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("complex_data", [True, False])
@pytest.mark.parametrize("separable", [True, False])
def test_complex_data_and_more_axes_follow_the_definition(sizes, n_modes, complex_data, separable):
    options = {"complex_data": complex_data, "separable": separable}
    dtype = torch.complex64 if complex_data else torch.float32
    for norm in ("forward", "ortho", "backward"):
        layer = nn.NeuralopSpectralConv(2, 2, n_modes, fft_norm=norm, **options)
        x = torch.randn(2, 2, *sizes, dtype=dtype, requires_grad=True)
        double = torch.complex128 if complex_data else torch.float64
        y, wide = layer(x), x.detach().to(double).requires_grad_()
        want = exact(layer, wide)
        assert y.dtype == dtype
        assert relative_error(y, want) <= NEURALOP
        grad = torch.randn(y.shape, dtype=dtype)
        leaves = [*layer.parameters()]
        got = torch.autograd.grad(y, [x, *leaves], grad)
        wanted = torch.autograd.grad(want, [wide, *leaves], grad.to(want.dtype))
        for one, other in zip(got, wanted, strict=True):
            assert relative_error(one, other) <= 3 * BACKWARD[torch.float32]


@pytest.mark.parametrize("complex_data", [True, False])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_other_grids_follow_the_definition(complex_data, order):
    for out in ((10, 7, 3, 6), (4, 5, 6, 4)):
        layer = nn.NeuralopSpectralConv(2, 3, (4, 5, 3, 4)[:order], complex_data=complex_data)
        x = torch.randn(1, 2, *(6, 5, 4, 5)[:order])
        x = torch.complex(x, torch.randn_like(x)) if complex_data else x
        wide = x.to(torch.complex128 if complex_data else torch.float64)
        y = layer(x, output_shape=out[:order])
        assert relative_error(y, exact(layer, wide, out[:order])) <= NEURALOP


def test_real_numbers_are_complex_data_too():
    layer, x = nn.NeuralopSpectralConv(2, 2, (4, 4), complex_data=True), torch.randn(1, 2, 6, 6)
    assert torch.equal(layer(x), layer(x.to(torch.complex64)))


def test_the_fft_path_is_the_operator():
    layer, x = nn.NeuralopSpectralConv(3, 4, (4, 5), bias=False), torch.randn(2, 3, 7, 8)
    axes = all_defined((4, 3), (4, 3), (7, 8), (9, 6), False)
    weight = layer.weight.dense([axis.rows for axis in axes])
    y = grids.by_fft(x, weight, axes, [9, 4], (9, 6), "forward", True)
    assert_near(layer(x, output_shape=(9, 6)), y.double(), FORWARD, "fft")


# checkpoints


@pytest.mark.parametrize("kind", [None, "ComplexDense", *KINDS, "ComplexTucker", "ComplexCP"])
@pytest.mark.parametrize("separable", [True, False])
def test_checkpoints_go_both_ways(kind, separable, tmp_path):
    theirs = peer((4, 4), (4, 6), separable=separable, factorization=kind, rank=0.5)
    ours = stand_in(theirs)
    torch.save(nn.neuralop_state_dict(ours), tmp_path / "state.pt")
    saved, want = torch.load(tmp_path / "state.pt"), theirs.state_dict()
    assert saved.keys() == want.keys()
    assert all(torch.equal(saved[key], want[key]) for key in want)
    drawn(theirs).load_state_dict(saved)
    other = stand_in(theirs)
    other.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 8, 12)
    assert torch.equal(ours(x), other(x))
    assert relative_error(ours(x), theirs(x)) <= NEURALOP
    assert want.keys() == theirs.state_dict().keys(), "what was loaded is left as it was"


def test_checkpoints_of_former_layers_load():
    one, other = (nn.NeuralopSpectralConv(3, 4, (4, 6)) for _ in range(2))
    former = {"weight": one.weight.pairs.detach(), "bias": one.bias.detach()}
    other.load_state_dict(former)
    assert torch.equal(one.weight.to_tensor(), other.weight.to_tensor())
    with pytest.raises(RuntimeError, match=r"size mismatch for weight\.pairs"):
        nn.NeuralopSpectralConv(3, 4, (6, 6)).load_state_dict(former)
    with pytest.raises(RuntimeError, match=r"Missing key.*weight\.core"):
        nn.NeuralopSpectralConv(3, 4, (4, 6), factorization="tucker").load_state_dict(former)


# models


FNO = {"in_channels": 2, "out_channels": 3, "hidden_channels": 6, "n_layers": 2}
MODELS = {
    "FNO": (lambda: neuralop.FNO((6,), **FNO), (16,)),
    "FNO, odd axes": (lambda: neuralop.FNO((4, 6), **FNO), (9, 11)),
    "FNO, larger output": (
        lambda: neuralop.FNO((4, 6), resolution_scaling_factor=[2, 0.5], **FNO), (8, 11),
    ),
    "FNO, complex": (lambda: neuralop.FNO((4, 5), complex_data=True, **FNO), (8, 9)),
    "FNO, complex in 1-D": (lambda: neuralop.FNO((4,), complex_data=True, **FNO), (9,)),
    "FNO, separable": (lambda: neuralop.FNO((4, 4, 6), separable=True, **FNO), (4, 6, 8)),
    "FNO in 4-D": (lambda: neuralop.FNO((2, 3, 2, 4), **FNO), (4, 4, 4, 4)),
    "TFNO": (lambda: neuralop.TFNO((4, 4, 6), rank=0.4, **FNO), (4, 6, 8)),
    "TFNO of CP": (lambda: neuralop.TFNO((4, 6), factorization="cp", rank=0.4, **FNO), (8, 9)),
    "UNO": (
        lambda: neuralop.UNO(
            2, 3, 6, uno_out_channels=[6, 8, 6], uno_n_modes=[[4, 4]] * 3, domain_padding=0.2,
            uno_scalings=[[1, 1], [0.5, 0.5], [2, 2]], n_layers=3, channel_mlp_skip="linear",
        ),
        (12, 14),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_converted_and_restored(name):
    make, sizes = MODELS[name]
    model = make()
    dtype = torch.complex64 if "complex" in name else torch.float32
    x = torch.randn(2, 2, *sizes, dtype=dtype)
    wanted = model.state_dict()
    with torch.no_grad():
        grad = torch.randn_like(model(x))
    want = results(model, x, grad)
    assert nn.convert(model) is model
    got = results(model, x, grad)
    layers = [m for m in model.modules() if isinstance(m, nn.NeuralopSpectralConv)]
    assert len(layers) == (3 if name == "UNO" else 2)
    assert not any(isinstance(m, module.SpectralConv) for m in model.modules())
    assert got.keys() == want.keys()
    for key, value in want.items():
        if value is not None:
            assert relative_error(got[key], value) <= 3 * NEURALOP, key
    saved = nn.neuralop_state_dict(model)
    assert {key: None for key in saved} == {key: None for key in wanted}
    nn.restore(model)
    again = results(model, x, grad)
    assert all(torch.equal(again[k], v) for k, v in want.items() if v is not None)
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in wanted.items() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize(("sizes", "n_modes"), [EVEN_GRIDS[i] for i in (0, 2, 5)], ids=str)
def test_inside_the_fno_of_the_peer(sizes, n_modes):
    theirs = neuralop.FNO(n_modes, **FNO)
    ours = neuralop.FNO(n_modes, **FNO, conv_module=nn.NeuralopSpectralConv)
    ours.load_state_dict(theirs.state_dict())
    assert_same(ours, theirs, torch.randn(2, 2, *sizes), 3)


def test_a_layer_is_converted_once_and_frozen_parameters_stay_so():
    layer = peer((2, 2), (4, 4)).requires_grad_(False).eval()
    twice = torch.nn.ModuleList([layer, layer, torch.nn.Linear(1, 1)])
    nn.convert(twice)
    assert twice[0] is twice[1]
    assert not twice[0].training
    assert not any(parameter.requires_grad for parameter in twice[0].parameters())
    assert not any(p.requires_grad for p in nn.restore(twice[0]).parameters())
    for convert in (nn.convert, nn.restore):
        with pytest.raises(ValueError, match="model: got Linear"):
            convert(torch.nn.Linear(1, 1))


def test_the_development_versions_layer_is_followed_too():
    """It shifts back with ifftshift and splits the inverse, which is the definition on odd axes."""
    theirs = peer((2, 3), (4, 5))
    theirs.enforce_hermitian_symmetry = True
    layer = nn.convert(theirs)
    assert layer.follows == "ifftshift"
    x = torch.randn(1, 2, 9, 8)
    assert torch.equal(layer(x), stand_in(theirs)(x))
    assert layer(x, output_shape=(6, 6)).shape == (1, 3, 6, 6)


def test_every_kind_compiles_whole():
    for options in ({"factorization": "tucker"}, {"complex_data": True}):
        layer = nn.NeuralopSpectralConv(2, 2, (4, 4), **options)
        dtype = torch.complex64 if layer.complex_data else torch.float32
        x = torch.randn(1, 2, 6, 6, dtype=dtype)
        torch._dynamo.reset()
        traced = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
        assert relative_error(traced, layer(x)) <= NEURALOP


def test_the_peers_own_tests_run_by_one_command(tmp_path):
    script = Path(__file__).parent / "peers" / "neuraloperator.py"
    words = ["--out", str(tmp_path / "out.json"), "--", "layers/tests/test_fno_block.py",
             "-k", "norm or complex"]  # fmt: skip
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "out.json").read_text())
    assert len(outcomes) > 10
    assert set(outcomes.values()) == {"passed"}
    assert json.loads(done.stdout.splitlines()[-1]) == {"passed": len(outcomes)}
