"""The options of the published fast Fourier convolutions, and the generator of LaMa made of ours:
against the published layers in plain torch, which take 2-D maps of even sizes.
"""

import pytest
import torch
from tolerances import assert_near
from torch import nn as torch_nn
from torch.nn import functional as F

from fastseg import nn

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")
F64 = torch.float64
# two convolutional networks in float64, and in float32
NEAR = {F64: 1e-11, torch.float32: 1e-5}


def shaken(module):
    """Running statistics and affine parameters away from their defaults, so that each shows."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point() and ("bn" in name or name.endswith("running_mean")):
                tensor.normal_(0.2, 0.5)
    return module.eval()


# the published layers, as functions of a state dict; x_g is None where there are no global channels


def normalised(state, name, x):
    mean, var = (state.get(f"{name}.running_{what}") for what in ("mean", "var"))
    return F.batch_norm(
        x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], training=mean is None
    )


def fourier_unit(state, name, x, groups=1, fft_norm="ortho"):
    sizes = x.shape[-2:]
    spectrum = torch.fft.rfftn(x, dim=(-2, -1), norm=fft_norm)
    pairs = torch.stack((spectrum.real, spectrum.imag), -1).permute(0, 1, 4, 2, 3).flatten(1, 2)
    if f"{name}.se.fc.0.weight" in state:
        squeezed = F.linear(pairs.mean((2, 3)), state[f"{name}.se.fc.0.weight"]).relu()
        scale = F.linear(squeezed, state[f"{name}.se.fc.2.weight"]).sigmoid()
        pairs = pairs * scale[..., None, None]
    mixed = F.conv2d(pairs, state[f"{name}.conv_layer.weight"], groups=groups)
    mixed = normalised(state, f"{name}.bn", mixed).relu().unflatten(1, (-1, 2))
    spectrum = torch.complex(mixed[:, :, 0], mixed[:, :, 1])
    return torch.fft.irfftn(spectrum, s=sizes, dim=(-2, -1), norm=fft_norm)


def spectral_transform(state, name, x, stride=1, groups=1, fft_norm="ortho"):
    if stride == 2:
        x = F.avg_pool2d(x, 2)
    x = F.conv2d(x, state[f"{name}.conv1.0.weight"], groups=groups)
    x = normalised(state, f"{name}.conv1.1", x).relu()
    y = x + fourier_unit(state, f"{name}.fu", x, groups, fft_norm)
    if f"{name}.lfu.conv_layer.weight" in state:
        patches = torch.cat(x[:, : x.shape[1] // 4].chunk(2, -2), 1)
        patches = torch.cat(patches.chunk(2, -1), 1)
        y = y + fourier_unit(state, f"{name}.lfu", patches, groups).repeat(1, 1, 2, 2)
    return F.conv2d(y, state[f"{name}.conv2.weight"], groups=groups)


def ffc(state, name, x_l, x_g, stride=1, padding=1, dilation=1, groups=1, fft_norm="ortho"):
    def path(which, x):
        padded = F.pad(x, (padding,) * 4, mode="reflect") if padding else x
        weight = state[f"{name}.{which}.weight"]
        return F.conv2d(padded, weight, stride=stride, dilation=dilation, groups=groups)

    gates = 1, 1
    if f"{name}.gate.weight" in state:
        whole = torch.cat([x for x in (x_l, x_g) if x is not None], 1)
        weights = state[f"{name}.gate.weight"], state[f"{name}.gate.bias"]
        gates = F.conv2d(whole, *weights).sigmoid().chunk(2, 1)
    y_l = y_g = 0
    if f"{name}.convl2l.weight" in state:
        y_l = path("convl2l", x_l)
    if f"{name}.convg2l.weight" in state:
        y_l = y_l + path("convg2l", x_g) * gates[0]
    if f"{name}.convl2g.weight" in state:
        y_g = path("convl2g", x_l) * gates[1]
    if f"{name}.convg2g.conv2.weight" in state:
        half = 1 if groups == 1 else groups // 2
        y_g = y_g + spectral_transform(state, f"{name}.convg2g", x_g, stride, half, fft_norm)
    return (y if isinstance(y, torch.Tensor) else None for y in (y_l, y_g))


def layer(state, name, x_l, x_g, **how):
    y_l, y_g = ffc(state, f"{name}.ffc", x_l, x_g, **how)
    y_l = None if y_l is None else normalised(state, f"{name}.bn_l", y_l).relu()
    return y_l, None if y_g is None else normalised(state, f"{name}.bn_g", y_g).relu()


OPTIONS = [
    {},
    {"enable_lfu": False, "fft_norm": "backward"},
    {"fft_norm": "forward", "stride": 2},
    {"groups": 4, "enable_lfu": False},
    {"groups": 4, "stride": 2, "dilation": 2},
    {"gated": True, "use_se": True},
    {"gated": True, "ratio_gout": 0.0},
    {"gated": True, "use_se": True, "fft_norm": "backward", "groups": 2, "ratio_gin": 0.75},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_options_are_the_published_ones(options, training):
    module = shaken(nn.VFFC(32, 32, dims=2, **options)).double()
    x = torch.randn(2, 32, 12, 16, dtype=F64, requires_grad=True)
    known = {k: v for k, v in options.items() if k in ("stride", "dilation", "groups", "fft_norm")}
    if training:  # batch statistics in the published layers too
        for norm in [m for m in module.modules() if isinstance(m, torch_nn.BatchNorm2d)]:
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    state = {f"ffc.{key}": value for key, value in module.state_dict().items()}
    parts = ffc(state, "ffc", *split(x, module), padding=options.get("dilation", 1), **known)
    wanted = torch.cat([part for part in parts if part is not None], 1)
    found = module(x)
    assert_near(found, wanted.detach(), NEAR, options)
    direction = torch.randn_like(found)
    grads = (torch.autograd.grad(y, x, direction)[0] for y in (found, wanted))
    assert_near(next(grads), next(grads), {F64: 1e-10}, options)


def split(x, module):
    local = x.shape[1] - module.in_global
    return x[:, :local], x[:, local:] if module.in_global else None


@pytest.mark.parametrize("sizes", [(9, 7), (8, 5)])
def test_stride_2_serves_odd_sizes_too(sizes):
    module = nn.VFFC(16, 16, dims=2, stride=2)
    assert module(torch.randn(1, 16, *sizes)).shape == (1, 16, *(-(-n // 2) for n in sizes))


def test_group_norm_and_fft_norm_go_together():
    x = torch.randn(2, 4, 6, 9, dtype=F64)
    unit = nn.FourierUnit(4, 4, dims=2, norm="group", fft_norm="backward").double()
    same = nn.FourierUnit(4, 4, dims=2, norm="group").double()
    same.load_state_dict(unit.state_dict())
    root = (6 * 9) ** 0.5
    with torch.no_grad():
        same.conv_layer.weight *= root  # group norm has an eps: what it sees must be equal
    assert_near(unit(x), same(x) / root, NEAR, "group")


def test_squeeze_of_both_parts_is_the_published_one():
    module, x = nn.FFCSqueeze(32, dims=2, ratio=0.25), torch.randn(2, 32, 5, 6)
    state = module.state_dict()
    inner = F.conv2d(x.mean((2, 3), keepdim=True), state["conv1.weight"], state["conv1.bias"])
    scales = [
        F.conv2d(inner.relu(), state[f"conv_a2{part}.weight"], state[f"conv_a2{part}.bias"])
        for part in "lg"
    ]
    wanted = x * torch.cat(scales, 1).sigmoid()
    assert_near(module(x), wanted.double(), NEAR, "squeeze")
    local, wide = module((x[:, :24], x[:, 24:]))
    torch.testing.assert_close(torch.cat([local, wide], 1), module(x))
    assert nn.FFCSqueeze(16, dims=2, ratio=0)((x[:, :16], None))[1] is None


# the generator, layer by layer as configs/training/generator/ffc_resnet_075.yaml has it


def generator(width=8, downs=3, blocks=2, ratio=0.75):
    local = {"dims": 2, "ratio_gin": 0.0, "ratio_gout": 0.0, "enable_lfu": False}
    layers = [
        torch_nn.ReflectionPad2d(3),
        nn.VFFCLayer(4, width, kernel_size=7, padding=0, **local),
    ]
    for i in range(downs):
        out = {"ratio_gout": ratio if i == downs - 1 else 0.0}
        layers.append(nn.VFFCLayer(width << i, width << (i + 1), stride=2, **local | out))
    deep = width << downs
    layers += [nn.VFFCBlock(deep, ratio=ratio, dims=2, enable_lfu=False) for _ in range(blocks)]
    layers.append(torch_nn.Identity())  # where the published one joins its pair
    for i in range(downs):
        c = deep >> i
        up = torch_nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1)
        layers += [up, torch_nn.BatchNorm2d(c // 2), torch_nn.ReLU()]
    layers += [torch_nn.ReflectionPad2d(3), torch_nn.Conv2d(width, 3, 7), torch_nn.Sigmoid()]
    return torch_nn.ModuleDict({"model": torch_nn.Sequential(*layers)})


def published_generator(state, x, downs=3, blocks=2):
    x = layer(state, "model.1", F.pad(x, (3,) * 4, mode="reflect"), None, padding=0)
    for i in range(downs):
        x = layer(state, f"model.{2 + i}", *x, stride=2)
    for i in range(blocks):
        name = f"model.{2 + downs + i}"
        y = layer(state, f"{name}.conv2", *layer(state, f"{name}.conv1", *x))
        x = tuple(a + b for a, b in zip(x, y, strict=True))
    x, at = torch.cat(x, 1), 3 + downs + blocks
    for i in range(at, at + 3 * downs, 3):
        weights = state[f"model.{i}.weight"], state[f"model.{i}.bias"]
        x = F.conv_transpose2d(x, *weights, stride=2, padding=1, output_padding=1)
        x = normalised(state, f"model.{i + 1}", x).relu()
    last = f"model.{at + 3 * downs + 1}"
    x = F.pad(x, (3,) * 4, mode="reflect")
    return F.conv2d(x, state[f"{last}.weight"], state[f"{last}.bias"]).sigmoid()


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_a_generator_of_lama_loads_and_equals(dtype):
    net = shaken(generator()).to(dtype)
    names = set(net.state_dict())
    for name in ("model.1.ffc.convl2l.weight", "model.4.ffc.convl2g.weight",
                 "model.5.conv1.ffc.convg2g.conv1.0.weight", "model.6.conv2.bn_g.running_var",
                 "model.5.conv1.ffc.convg2g.fu.conv_layer.weight", "model.8.weight",
                 "model.5.conv1.ffc.convg2g.fu.bn.weight", "model.18.bias"):  # fmt: skip
        assert name in names
    other = shaken(generator()).to(dtype)
    other.load_state_dict(net.state_dict())
    x = torch.rand(2, 4, 32, 48, dtype=dtype)
    wide = {k: v.double() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    with torch.no_grad():
        wanted = published_generator(wide, x.double())
        assert_near(other["model"](x), wanted, NEAR, "generator")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.FourierUnit(4, 4, fft_norm="no"), "fft_norm: got 'no'"),
        (lambda: nn.SpectralTransform(8, 8, stride=3), "stride: got 3"),
        (lambda: nn.SqueezeExcitation(8), "channels: got 8, want at least reduction, 16"),
        (lambda: nn.FFCSqueeze(8), "channels: got 8"),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
