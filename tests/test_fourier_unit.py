"""What is the Fourier unit's own: planar spectra, statistics, equality with published layers."""

import pytest
import torch
from operators import LIVE, check, device_of, saved_by, serves
from rows_fourier_unit import GRIDS, ROWS, unit
from tolerances import BACKWARD, BF16, F16, F32, F64, FORWARD, assert_near
from torch import nn

import fastseg
from fastseg import ops
from fastseg.ops import dispatch, impl, tables
from fastseg.ops.impl.contract import Geometry

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")
SPECTRAL = [name for name in LIVE if name in impl.SPECTRAL]


@pytest.mark.parametrize("backend", SPECTRAL)
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_a_planar_spectrum_is_the_interleaved_one(backend, two_sided, dtype):
    kernels = impl.SPECTRAL[backend]
    if impl.unable(backend, impl.SERVES[backend], dtype):
        pytest.skip("computes in float32")
    for sizes in [*GRIDS, (9, 40, 37), (70, 3, 5)]:
        x = torch.randn(2, 3, *sizes, dtype=dtype, device=impl.SERVES[backend])
        half = tables.half_spectrum(sizes)
        for modes in (half, tuple((m + 1) // 2 for m in half)):
            geometry = Geometry(sizes, modes, 1, (0.5, 0.5), two_sided, adjoint=True)
            pairs = kernels.analysis(x, geometry)
            planar = kernels.analysis(x, geometry, planar=True)
            assert torch.equal(planar, pairs.movedim(-1, 2).flatten(1, 2)), (sizes, modes)
            given = geometry._replace(adjoint=False), dtype
            y = kernels.synthesis(pairs, *given)
            assert torch.equal(kernels.synthesis(planar, *given, planar=True), y), sizes


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("dtype", [F32, F64, F16, BF16], ids=str)
def test_evaluation_matches_float64(backend, dtype):
    row = ROWS["fourier_unit"]._replace(draw=unit(training=False))
    if not serves(row, backend, dtype):
        pytest.skip("no kernel")
    for sizes in row.chosen(backend, dtype):
        check("fourier_unit", row, backend, sizes, dtype)


class Published(nn.Module):
    """The layer as published: torch.fft, a 1×1 convolution and nn.BatchNorm."""

    def __init__(self, channels: int, outputs: int, dims: int):
        super().__init__()
        convolution, norm = (
            (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        )
        self.conv = convolution(2 * channels, 2 * outputs, 1, bias=False)
        self.norm = norm(2 * outputs, momentum=0.2, eps=1e-4)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        dims = tuple(range(2, x.dim()))
        spectrum = torch.fft.rfftn(x, dim=dims, norm="ortho")
        pairs = torch.stack([spectrum.real, spectrum.imag], 2).flatten(1, 2)
        real, imag = torch.relu(self.norm(self.conv(pairs))).unflatten(1, (-1, 2)).unbind(2)
        # torch leaves open what becomes of an imaginary zero frequency along the last axis
        rows = torch.fft.ifftn(torch.complex(real, imag), dim=dims[:-1], norm="ortho")
        return torch.fft.irfft(rows, n=x.shape[-1], norm="ortho")


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("sizes", [(8, 6), (4, 6, 5)], ids=str)
def test_trains_and_evaluates_like_the_published_layer(backend, sizes):
    if not serves(ROWS["fourier_unit"], backend, F32):
        pytest.skip("no kernel")
    torch.manual_seed(0)
    module, device = Published(3, 4, len(sizes)).double(), device_of(backend)
    named = (module.conv.weight, module.norm.weight, module.norm.bias)
    leaves = [p.detach().to(device, F32).requires_grad_() for p in named]
    running = torch.zeros(8, device=device), torch.ones(8, device=device)

    def ours(x, training):
        with fastseg.use_backend(backend):
            return ops.fourier_unit(x, *leaves, *running, training, 0.2, 1e-4)

    for _ in range(3):
        x = torch.randn(5, 3, *sizes)
        exact, y = module(x.double()), ours(x.to(device), True)
        assert_near(y, exact.to(device), FORWARD, "output")
        grad = torch.randn_like(x[:, :1]).expand(-1, 4, *sizes)
        exact_grads = torch.autograd.grad(exact, named, grad.double())
        grads = torch.autograd.grad(y, leaves, grad.to(device))
        for actual, want in zip(grads, exact_grads, strict=True):
            assert_near(actual, want.to(device), BACKWARD, "gradient")
    assert_near(running[0], module.norm.running_mean.to(device), FORWARD, "running mean")
    assert_near(running[1], module.norm.running_var.to(device), FORWARD, "running variance")
    before = [t.clone() for t in running]
    module.eval()
    with torch.no_grad():
        assert_near(ours(x.to(device), False), module(x.double()).to(device), FORWARD, "eval")
    assert all(torch.equal(a, b) for a, b in zip(running, before, strict=True))


@pytest.mark.parametrize("backend", SPECTRAL)
def test_only_the_spectrum_and_z_are_saved(backend):
    if backend not in impl.SPECTRAL_POINTWISE:
        pytest.skip("no kernel")
    x = torch.randn(2, 3, 4, 6, 5, device=device_of(backend), requires_grad=True)
    weight = torch.randn(8, 6, device=x.device, requires_grad=True)
    vector = weight.detach()[:, 0].clone().requires_grad_()
    mean, var = torch.zeros(8, device=x.device), torch.ones(8, device=x.device)
    with fastseg.use_backend(backend):
        _, saved = saved_by(
            lambda: ops.fourier_unit(x, weight, vector, vector, mean, var, True, 0.1, 1e-5)
        )
    bins = 4 * 6 * 3
    large = {t.data_ptr(): t.numel() for t in saved if t.numel() >= bins}
    assert sorted(large.values()) == [2 * 6 * bins, 2 * 8 * bins]


@pytest.mark.parametrize("backend", LIVE)
def test_wrong_arguments_are_named(backend):
    x, weight, v = torch.randn(1, 2, 4, 5), torch.randn(6, 4), torch.ones(6)
    z = torch.randn(1, 6, 4, 3)
    calls = [
        (TypeError, "weight: got", lambda: ops.fu_mix(x, weight.to(torch.complex64))),
        (ValueError, "weight: got shape", lambda: ops.fu_mix(x, weight[:, :3])),
        (ValueError, "weight: got shape", lambda: ops.fu_mix(x, weight[:5])),
        (ValueError, "x: got shape", lambda: ops.fu_mix(x[0, 0], weight)),
        (ValueError, "sizes: got", lambda: ops.fu_finish(z, v, v, (4, 6))),
        (ValueError, "scale: got shape", lambda: ops.fu_finish(z, v[:4], v, (4, 5))),
        (TypeError, "z: got dtype", lambda: ops.fu_finish(z.half(), v, v, (4, 5))),
        (ValueError, "running_mean: got None", lambda: ops.fourier_unit(
            x, weight, v, v, None, None, False, 0.1, 1e-5)),
        (ValueError, "running_mean, running_var", lambda: ops.fourier_unit(
            x, weight, v, v, v, None, True, 0.1, 1e-5)),
        (ValueError, "eps: got", lambda: ops.fourier_unit(
            x, weight, v, v, None, None, True, 0.1, 10**30)),
        (TypeError, "momentum: got a tensor", lambda: ops.fourier_unit(
            x, weight, v, v, v, v, True, v[:2], 1e-5)),
    ]  # fmt: skip
    with fastseg.use_backend(backend if backend in ("reference", "matmul") else "auto"):
        for kind, message, call in calls:
            with pytest.raises(kind, match=message):
                call()


def test_auto_leaves_long_axes_without_a_kernel_of_their_own_to_torch(monkeypatch):
    monkeypatch.setattr(dispatch.impl, "unable", lambda *_: None)

    def win(*sizes, device="cuda", images=64):
        return dispatch.full_spectra_win(device, sizes, images)

    assert all(win(n, n, n) for n in (4, 16, 48, 64))
    assert not any(win(n, n, n) for n in (14, 17, 96, 128))
    assert all((win(16, 16), win(128, 128), win(1, 64, 64)))
    assert not any((win(240, 240), win(1, 240, 240), win(64, 65), win(14, 14), win(64)))
    assert all(win(n, n, n, device="cpu") for n in (1, 2, 16, 48, 64, 96))
    assert all((win(128, 128, device="cpu"), win(128, 128, 128, device="cpu", images=1)))
    assert not any((win(128, 128, device="cpu", images=1), win(127, 128, device="cpu")))
