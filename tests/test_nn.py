"""Spectral layers, the bridge to neuraloperator, and the FNO built from them."""

import warnings

import pytest
import torch
from operators import LIVE, device_of
from tolerances import BACKWARD, FORWARD, NEURALOP, assert_near, relative_error, wide
from torch.nn import functional as F

import fastseg
from fastseg import models, nn, ops, reference
from fastseg.errors import UsageError

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")

GRIDS = [((9,), (3,)), ((8, 11), (5, 4)), ((6, 7, 8), (4, 3, 4))]


def double_weight(layer):
    return torch.view_as_complex(layer.weight.detach().double())


@pytest.mark.parametrize(("sizes", "modes"), GRIDS, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("two_sided", [True, False])
def test_spectral_conv_is_the_operator(sizes, modes, groups, two_sided):
    for norm, bias in (("ortho", True), ("backward", False), ("forward", True)):
        options = {"norm": norm, "groups": groups, "two_sided": two_sided}
        layer = nn.SpectralConv(4, 6, modes, bias=bias, **options)
        if bias:
            torch.nn.init.normal_(layer.bias)
        x = torch.randn(2, 4, *sizes)
        offset = layer.bias.detach().double() if bias else None
        exact = reference.spectral_conv(x.double(), double_weight(layer), offset, **options)
        assert_near(layer(x), exact, FORWARD, options)


def test_spectral_conv_defaults():
    layer = nn.SpectralConv(3, 5, (4, 3))
    assert (layer.norm, layer.groups, layer.two_sided) == ("ortho", 1, True)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "weight": (3, 5, 4, 3, 2),
        "bias": (5,),
    }
    assert all(p.dtype == torch.float32 for p in layer.parameters())
    assert nn.SpectralConv(3, 5, 7).weight.shape == (3, 5, 7, 2)
    assert nn.SpectralConv(4, 6, (4, 3), groups=2, bias=False).weight.shape == (2, 6, 4, 3, 2)
    assert "modes=(4, 3)" in repr(layer)


def test_spectral_conv_changes_resolution():
    layer = nn.SpectralConv(2, 3, (4, 3), norm="forward")
    x = torch.randn(2, 2, 8, 9)
    exact = reference.spectral_conv(
        x.double(), double_weight(layer), layer.bias.detach().double(), (12, 5), norm="forward"
    )
    assert_near(layer(x, sizes=(12, 5)), exact, FORWARD, "resolution")


@pytest.mark.parametrize(("sizes", "modes"), GRIDS, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_block_is_its_composition(sizes, modes, groups):
    block = nn.FNOBlock(4, 6, modes, groups=groups)
    x = torch.randn(2, 4, *sizes)
    parameters = dict(block.named_parameters())
    leaves = {name: p.detach().double().requires_grad_() for name, p in parameters.items()}
    weight = torch.view_as_complex(leaves["weight"])
    kernel = leaves["skip_weight"].view(6, 4 // groups, *[1] * len(sizes))
    convolution = (F.conv1d, F.conv2d, F.conv3d)[len(sizes) - 1]
    skip = convolution(x.double(), kernel, leaves["bias"], groups=groups)
    exact = F.gelu(reference.spectral_conv(x.double(), weight, norm="ortho", groups=groups) + skip)
    y, grad = block(x), torch.randn(exact.shape)
    assert_near(y, exact, FORWARD, "block")
    grads = torch.autograd.grad(y, list(parameters.values()), grad)
    exact_grads = torch.autograd.grad(exact, list(leaves.values()), grad.double())
    for name, actual, want in zip(parameters, grads, exact_grads, strict=True):
        assert_near(actual, want, BACKWARD, name)


@pytest.mark.parametrize("layer", [nn.SpectralConv, nn.FNOBlock])
def test_weights_start_with_zero_mean_and_the_documented_spread(layer):
    weight = layer(32, 32, (16, 9)).weight.detach()
    count = weight.numel() / 2
    variance = 2 / (32 + 32)
    assert torch.view_as_complex(weight).abs().square().mean() == pytest.approx(variance, rel=0.02)
    for part in weight.unbind(-1):
        assert abs(part.mean()) < 5 * (variance / 2 / count) ** 0.5


@pytest.mark.parametrize("layer", [nn.SpectralConv, nn.FNOBlock])
@pytest.mark.parametrize(
    ("modes", "sizes", "kept"),
    [
        ((8, 5), (6, 20), ([0, 1, 2, 5, 6, 7], range(5))),
        ((8, 5), (5, 20), ([0, 1, 2, 6, 7], range(5))),
        ((7, 5), (4, 20), ([0, 1, 5, 6], range(5))),
        ((8, 5), (8, 6), (range(8), range(4))),
        ((8, 5), (1, 1), ([0], [0])),
    ],
)
def test_modes_beyond_the_grid_are_clipped_with_one_warning(layer, modes, sizes, kept):
    layer = layer(2, 2, modes)
    x = torch.randn(1, 2, *sizes)
    rows, columns = map(list, kept)
    with pytest.warns(UserWarning, match="modes") as caught:
        y = layer(x)
    assert len(caught) == 1
    assert str(modes) in str(caught[0].message)
    assert str((len(rows), len(columns))) in str(caught[0].message)
    weight = torch.view_as_complex(layer.weight.detach())[:, :, rows][..., columns]
    if isinstance(layer, nn.FNOBlock):
        exact = ops.fno_block(x, weight, layer.skip_weight, layer.bias, norm="ortho")
    else:
        exact = ops.spectral_conv(x, weight, layer.bias, norm="ortho")
    assert torch.equal(y, exact)
    (grad,) = torch.autograd.grad(y.square().sum(), layer.weight)
    used = torch.zeros(modes, dtype=torch.bool)
    used[torch.tensor(rows)[:, None], torch.tensor(columns)] = True
    assert not grad[:, :, ~used].any()
    assert grad[:, :, used].any()


def test_clipping_one_sided_keeps_the_first_rows():
    layer = nn.SpectralConv(2, 2, (8, 5), two_sided=False, bias=False)
    x = torch.randn(1, 2, 6, 20)
    with pytest.warns(UserWarning, match="modes"):
        y = layer(x)
    weight = torch.view_as_complex(layer.weight.detach())[:, :, :6]
    assert torch.equal(y, ops.spectral_conv(x, weight, norm="ortho", two_sided=False))


def test_modes_that_fit_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.SpectralConv(2, 2, (8, 5))(torch.randn(1, 2, 8, 9))


def test_clipping_warns_once_in_training():
    layer = nn.SpectralConv(2, 2, (8, 5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(5):
            layer(torch.randn(1, 2, 6, 6))
    assert len(caught) == 1


@pytest.mark.parametrize("make", [
    lambda: nn.SpectralConv(4, 4, (4, 3), groups=2),
    lambda: nn.FNOBlock(4, 4, (4, 3)),
    lambda: nn.NeuralopSpectralConv(4, 4, (4, 4)),
    lambda: models.build("fno", in_channels=4, classes=3, modes=(4, 3), width=4, blocks=1),
])  # fmt: skip
def test_state_round_trip(make, tmp_path):
    one, other = make(), make()
    x = torch.randn(2, 4, 8, 9)
    assert not torch.equal(one(x), other(x))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(one(x), other(x))
    assert not any(p.is_complex() for p in one.parameters())


@pytest.mark.parametrize("layer", [nn.SpectralConv, nn.FNOBlock])
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, 4, (1, 1, 1, 1)), {}, "modes: got"),
        ((4, 4, ()), {}, "modes: got"),
        ((4, 4, (4, 0)), {}, "modes: got"),
        ((4, 4, (4, 3)), {"groups": 3}, "groups: got 3"),
        ((4, 6, (4, 3)), {"groups": 4}, "groups: got 4"),
        ((4, 4, (4, 3)), {"groups": 0}, "groups: got 0"),
    ],
)
def test_wrong_constructor_arguments_are_named(layer, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        layer(*arguments, **options)


@pytest.mark.parametrize("layer", [nn.SpectralConv, nn.FNOBlock])
def test_wrong_inputs_are_named(layer):
    layer = layer(4, 4, (4, 3))
    with pytest.raises(ValueError, match="x: got shape"):
        layer(torch.zeros(1, 4, 8))
    with pytest.raises(ValueError, match="got 4 input channels"):
        layer(torch.zeros(1, 3, 8, 9))
    with pytest.raises(TypeError, match="x: got dtype"):
        layer(torch.zeros(1, 4, 8, 9, dtype=torch.int16))


@pytest.mark.parametrize("backend", [*LIVE, "auto"])
@pytest.mark.parametrize("make", [nn.SpectralConv, nn.FNOBlock, nn.NeuralopSpectralConv])
def test_layers_compile_whole(make, backend):
    device = device_of(backend)
    layer, x = make(4, 4, (4, 4)).to(device), torch.randn(2, 4, 8, 9, device=device)
    x.requires_grad_()
    torch._dynamo.reset()
    with fastseg.use_backend(backend):
        traced = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
        grads = torch.autograd.grad(traced.square().sum(), [x, *layer.parameters()])
        eager = layer(x)
        exact = torch.autograd.grad(eager.square().sum(), [x, *layer.parameters()])
    assert_near(traced, eager, FORWARD, backend)
    for actual, want in zip(grads, exact, strict=True):
        assert_near(actual, want, {torch.float32: 2 * BACKWARD[torch.float32]}, backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_layers_under_autocast_keep_the_dtype(dtype):
    for layer in (nn.SpectralConv(4, 4, (4, 3)), nn.FNOBlock(4, 4, (4, 3))):
        for x in (torch.randn(2, 4, 8, 9), torch.randn(2, 4, 8, 9).to(dtype)):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = layer(x)
            assert y.dtype == x.dtype
            y.sum().backward()
            assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


# neuraloperator

PEER = "neuraloperator is in the extra `bench`"


def peer(channels, n_modes, **options):
    module = pytest.importorskip("neuralop.layers.spectral_convolution", reason=PEER)
    layer = module.SpectralConv(*channels, n_modes, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer


def dense(layer):
    return getattr(layer.weight, "tensor", layer.weight)


def in_torch_order(weight, first=2):
    dims = tuple(range(first, weight.dim() - 1))
    return torch.fft.ifftshift(weight, dim=dims) if dims else weight


def gradients(layer, x, grad):
    """Output and gradients of x, the weight and, where there is one, the bias."""
    x = x.clone().requires_grad_()
    weight = layer.weight if isinstance(layer.weight, torch.nn.Parameter) else layer.weight.tensor
    leaves = [x, weight] if layer.bias is None else [x, weight, layer.bias]
    y = layer(x)
    return y.detach(), torch.autograd.grad(y, leaves, grad)


def assert_equal_gradients(ours, theirs, first=2):
    for actual, want in zip(ours, theirs, strict=True):
        if want.is_complex():
            actual = torch.view_as_complex(actual.contiguous())
            want = in_torch_order(want, first)
        assert relative_error(actual.reshape(want.shape), want) <= NEURALOP


EVEN_GRIDS = [
    ((16,), (6,)), ((15,), (7,)), ((8, 12), (4, 6)), ((8, 11), (5, 5)), ((10, 9), (3, 8)),
    ((4, 6, 8), (4, 4, 4)), ((6, 8, 9), (3, 5, 7)), ((8, 12), (8, 12)),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "n_modes"), EVEN_GRIDS, ids=str)
@pytest.mark.parametrize("options", [{}, {"bias": False, "fft_norm": "ortho"}], ids=str)
def test_from_neuralop_equals_the_peer(sizes, n_modes, options):
    theirs = peer((3, 4), n_modes, **options)
    ours = nn.SpectralConv.from_neuralop(theirs)
    x, grad = torch.randn(2, 3, *sizes), torch.randn(2, 4, *sizes)
    y, grads = gradients(ours, x, grad)
    exact, exact_grads = gradients(theirs, x, grad)
    assert relative_error(y, exact) <= NEURALOP
    assert_equal_gradients(grads, exact_grads)
    with torch.no_grad():
        next(ours.parameters()).zero_()
    assert relative_error(theirs(x), exact) <= NEURALOP, "weights are copied, not shared"


@pytest.mark.parametrize("sizes", [(7, 12), (9, 11), (5, 6, 8)], ids=str)
def test_on_odd_axes_the_peer_moves_every_frequency_by_a_row(sizes):
    theirs = peer((1, 1), (3,) * len(sizes), bias=False)
    with torch.no_grad():
        dense(theirs).fill_(1)
    ours = nn.SpectralConv.from_neuralop(theirs)
    constant = torch.ones(1, 1, *sizes)
    assert relative_error(ours(constant), constant) <= NEURALOP
    assert relative_error(theirs(constant), constant) > 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"separable": True},
        {"factorization": "tucker", "rank": 0.5},
        {"complex_data": True},
    ],
    ids=str,
)
def test_from_neuralop_refuses_other_layers(options):
    with pytest.raises(ValueError, match="module: "):
        nn.SpectralConv.from_neuralop(peer((4, 4), (4, 4), **options))


def stand_in(theirs, **options):
    channels = theirs.in_channels, theirs.out_channels
    n_modes = [*theirs.n_modes[:-1], 2 * (theirs.n_modes[-1] - 1)]
    ours = nn.NeuralopSpectralConv(*channels, n_modes, fft_norm=theirs.fft_norm, **options)
    load(ours, theirs)
    return ours


def load(ours, theirs):
    weight = dense(theirs).detach()
    separable = weight.dim() == len(theirs.n_modes) + 1
    with torch.no_grad():
        weight = in_torch_order(weight, 1 if separable else 2)
        ours.weight.copy_(torch.view_as_real(weight.contiguous()).view(ours.weight.shape))
        if theirs.bias is not None:
            ours.bias.copy_(theirs.bias)


@pytest.mark.parametrize(("sizes", "n_modes"), [((16,), (6,)), ((8, 12), (4, 6)),
                                                ((4, 6, 8), (4, 4, 4))], ids=str)  # fmt: skip
@pytest.mark.parametrize("separable", [True, False])
def test_the_stand_in_equals_the_peer(sizes, n_modes, separable):
    theirs = peer((4, 4), n_modes, separable=separable)
    ours = stand_in(theirs, separable=separable)
    x, grad = torch.randn(2, 4, *sizes), torch.randn(2, 4, *sizes)
    y, grads = gradients(ours, x, grad)
    exact, exact_grads = gradients(theirs, x, grad)
    assert relative_error(y, exact) <= NEURALOP
    assert_equal_gradients(grads, exact_grads, 1 if separable else 2)


@pytest.mark.parametrize("n_modes", [(4, 6), (2, 4), (6, 2)])
def test_fewer_modes_take_the_centre_of_the_weight(n_modes):
    theirs = peer((3, 3), (8, 8))
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
    ours = stand_in(theirs)
    theirs.n_modes = ours.n_modes = n_modes
    x = torch.randn(2, 3, *sizes)
    exact = theirs(x)
    assert relative_error(ours(x), exact) > 0.1, "each of our rows is of its own frequency"
    axes = tuple(range(2, 1 + len(sizes)))
    with torch.no_grad():
        dense(theirs).copy_(dense(theirs).roll([1] * len(axes), axes))
    load(ours, theirs)
    assert relative_error(ours(x), exact) <= NEURALOP


def test_the_stand_in_has_the_attributes_of_the_peer():
    options = {"max_n_modes": (8, 7), "resolution_scaling_factor": 2, "init_std": 0.1}
    theirs, ours = peer((3, 4), (6, 6), **options), nn.NeuralopSpectralConv(3, 4, (6, 6), **options)
    for name in ("in_channels", "out_channels", "n_modes", "order", "separable", "complex_data",
                 "fft_norm", "fno_block_precision", "rank", "implementation"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert list(ours.max_n_modes) == list(theirs.max_n_modes)
    assert ours.bias.shape == theirs.bias.shape
    assert ours.weight.shape[:-1] == dense(theirs).shape


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
    weight, bias = double_weight(layer), layer.bias.detach().double().flatten()
    exact = reference.spectral_conv(x.double(), weight, bias, (16, 15), norm="forward")
    assert_near(layer(x), exact, FORWARD, "resolution")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"complex_data": True}, "complex_data"),
        ({"factorization": "tucker"}, "factorization: got 'tucker'"),
        ({"fno_block_precision": "half"}, "fno_block_precision: got 'half'"),
        ({"separable": True}, "separable"),
    ],
    ids=str,
)
def test_the_stand_in_names_what_it_does_not_serve(options, message):
    with pytest.raises(ValueError, match=message):
        nn.NeuralopSpectralConv(3, 4, (4, 4), **options)


@pytest.mark.parametrize(("sizes", "n_modes"), [((16,), (6,)), ((8, 12), (4, 6)),
                                                ((4, 6, 8), (4, 4, 4))], ids=str)  # fmt: skip
def test_inside_the_fno_of_the_peer(sizes, n_modes):
    neuralop = pytest.importorskip("neuralop.models", reason=PEER)
    options = {"n_modes": n_modes, "in_channels": 2, "out_channels": 3, "hidden_channels": 8,
               "n_layers": 2}  # fmt: skip
    theirs = neuralop.FNO(**options)
    ours = neuralop.FNO(**options, conv_module=nn.NeuralopSpectralConv)
    state = {k: v for k, v in theirs.state_dict().items() if ".convs." not in k}
    assert set(ours.load_state_dict(state, strict=False).unexpected_keys) == set()
    pairs = zip(ours.fno_blocks.convs, theirs.fno_blocks.convs, strict=True)
    for layer, original in pairs:
        assert isinstance(layer, nn.NeuralopSpectralConv)
        load(layer, original)
    x = torch.randn(2, 2, *sizes)
    found = []
    for model in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        y.square().sum().backward()
        found.append((y.detach(), leaf.grad, model))
    (y, dx, _), (exact, exact_dx, _) = found
    assert relative_error(y, exact) <= NEURALOP
    assert relative_error(dx, exact_dx) <= NEURALOP
    grads = {name: p.grad for name, p in theirs.named_parameters() if ".convs." not in name}
    for name, parameter in ours.named_parameters():
        if name in grads and grads[name] is not None:
            assert relative_error(parameter.grad, grads[name]) <= NEURALOP, name
    for layer, original in zip(ours.fno_blocks.convs, theirs.fno_blocks.convs, strict=True):
        want = in_torch_order(original.weight.tensor.grad)
        assert relative_error(torch.view_as_complex(layer.weight.grad), want) <= NEURALOP


# the model


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("in_channels", "options", "count"),
    [
        (1, {"modes": (10, 10), "two_sided": False}, 617_713),
        (4, {"modes": (10, 10), "two_sided": False}, 617_761),
        (4, {"modes": (20, 10)}, 1_232_161),
        (1, {"modes": (10, 10), "two_sided": False, "branches": "shared"}, 154_516),
    ],
)
def test_parameter_counts(in_channels, options, count):
    assert parameters(models.build("fno", in_channels=in_channels, classes=4, **options)) == count


def test_the_default_model_is_the_two_sided_one():
    model = models.build("fno", in_channels=4, classes=4)
    assert parameters(model) == 1_232_161
    assert all(block.two_sided for block in model.blocks)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {}, "system: is 'unet', wanted one of .*fno"),
        ("fno", {"depth": 3}, "depth"),
        ("fno", {"branches": "both"}, "model.branches: is 'both', wanted one of per_class, shared"),
        ("fno", {"modes": (2, 2, 2, 2)}, "modes"),
    ],
)
def test_build_names_what_it_does_not_know(name, options, message):
    kind = UsageError if name == "unet" or "depth" in options else ValueError
    with pytest.raises(kind, match=message):
        models.build(name, in_channels=4, classes=4, **options)


@pytest.mark.parametrize("branches", ["per_class", "shared"])
@pytest.mark.parametrize(
    ("modes", "grids"),
    [((6, 4), [(16, 16), (20, 33), (6, 6)]), ((4, 4, 3), [(8, 8, 8), (5, 9, 12), (4, 6, 5)])],
    ids=str,
)
def test_one_model_serves_every_size(branches, modes, grids):
    model = models.build("fno", in_channels=4, classes=3, modes=modes, width=4, branches=branches)
    for sizes in grids:
        image = torch.randn(2, 4, *sizes)
        assert model(image).shape == (2, 3, *sizes)
        probabilities = model.predict(image)
        assert_near(probabilities.sum(1), torch.ones(2, *sizes), FORWARD, sizes)
        label = torch.randint(3, (2, *sizes)).to(torch.uint8)
        loss, parts = model.training_loss({"image": image, "label": label}, torch.Generator())
        loss.backward()
        assert loss.dim() == 0
        assert set(parts) == {"dice", "ce"}
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_branches_do_not_mix():
    model = models.build("fno", in_channels=2, classes=3, modes=(4, 3), width=4, blocks=2)
    x = torch.randn(1, 2, 8, 9)
    before = model(x).detach()
    with torch.no_grad():
        for block in model.blocks:
            block.weight[:, 4:8] = 0
    changed = (model(x) != before).flatten(2).any(2)[0]
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("branches", ["per_class", "shared"])
def test_the_model_is_its_formula(branches):
    model = models.build("fno", in_channels=2, classes=3, modes=(4, 3), width=4, blocks=2,
                         branches=branches).double()  # fmt: skip
    x = torch.randn(2, 2, 8, 9, dtype=torch.float64)
    count = 3 if branches == "per_class" else 1
    logits = []
    for branch in range(count):
        own = slice(4 * branch, 4 * branch + 4)
        z = model.lift(x)
        for block in model.blocks:
            weight = torch.view_as_complex(block.weight.detach())[:, own]
            skip = torch.einsum("oi,bi...->bo...", block.skip_weight[own], z)
            skip = skip + block.bias[own].view(-1, 1, 1)
            z = F.gelu(reference.spectral_conv(z, weight, norm="ortho") + skip)
        logits.append(model.project(z))
    assert_near(model(x), wide(torch.cat(logits, 1)), FORWARD, branches)
