"""What each of two processes does in test_interop.py: every operator on tensors that they share."""

import torch
from operators import ROWS, Draw, run
from tolerances import BACKWARD, F32, FORWARD, assert_near
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from fastseg import ops


def by_channel(draw):
    """Calls that keep channels apart, two of each."""
    x, weight = draw.real(2, 4, 10, 12), draw.complex(1, 4, 4, 3)
    sigma, gain = draw.uniform(0.5, 2, 4, 1), draw.complex(4, 10, 7)
    yield "truncated_rfftn", {"x": x}, {"modes": (4, 3)}
    yield "truncated_irfftn", {"spectrum": draw.complex(2, 4, 4, 3)}, {"sizes": (9, 8)}
    yield "spectral_conv", {"x": x, "weight": weight, "bias": draw.real(4)}, {"groups": 4}
    skip = {"skip_weight": draw.real(4, 2), "weight": draw.complex(2, 4, 4, 3)}
    yield "fno_block", {"x": x, **skip}, {"groups": 2}
    yield "spectral_filter", {"x": x, "gain": gain}, {}
    yield "gaussian_filter", {"x": x, "sigma": sigma}, {"padding": "reflect", "radius": 4}
    uneven = {"x": x[:, :3], "sigma": sigma[:3]}
    yield "gaussian_filter", uneven, {"mode": "both"}
    yield "spectral_conv", {"x": x, "weight": draw.complex(4, 6, 4, 3)}, {}  # gathered


def calls():
    for op, row in ROWS.items():
        for sizes in (row.few[-1], row.few[1]):
            yield op, *row.draw(sizes, F32), 0
    for op, tensors, options in by_channel(Draw("shared", F32)):
        yield op, tensors, options, 1


def check(op, tensors, options, axis, mesh) -> None:
    function, draw = getattr(ops, op), Draw((op, "gradient"), F32)
    given = []

    def drawn(y):
        given.append(draw.like(y))
        return given[-1]

    wanted = run(function, tensors, options, drawn)
    gradients = iter(given)
    shared = {
        name: distribute_tensor(t, mesh, [Replicate() if at else Shard(axis)])
        for at, (name, t) in enumerate(tensors.items())
    }
    found = run(function, shared, options, lambda y: distribute_tensor(next(gradients), mesh))
    if op not in ("fu_mix", "spectral_conv"):
        assert found[0][0].placements == (Shard(axis),), f"{op}: {found[0][0].placements}"
    for kind, table in enumerate((FORWARD, BACKWARD)):
        for number, (one, other) in enumerate(zip(found[kind], wanted[kind], strict=True)):
            what = f"{op} along {axis}: {('result', 'gradient')[kind]} {number}"
            assert_near(one.full_tensor(), other, table, what)


def running_statistics(mesh) -> None:
    tensors, options = ROWS["fourier_unit"].draw((5, 8), F32)
    mine = options | {k: options[k].clone() for k in ("running_mean", "running_var")}
    ops.fourier_unit(**tensors, **options)
    x = distribute_tensor(tensors.pop("x"), mesh, [Shard(0)])
    ops.fourier_unit(x, **tensors, **mine)
    for name in ("running_mean", "running_var"):
        assert_near(mine[name], options[name], FORWARD, name)


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for call in calls():
        check(*call, mesh)
    running_statistics(mesh)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
