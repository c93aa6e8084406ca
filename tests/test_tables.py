"""What tables outlive, and what they must not: calls in every mode torch can be in."""

import pytest
import torch
from operators import LIVE, ROWS, check, device_of, place, serves
from tolerances import F32
from torch._subclasses.fake_tensor import FakeTensorMode

import fastseg
from fastseg import ops
from fastseg.ops import tables
from fastseg.ops.impl.fragments import first_in_tile, outer_fragments

# grids of each mode's own, so that its call is the first one there
GRIDS = {"inference": (22, 26), "fake": (26, 34), "meta": (34, 38), "func": (38, 46)}


def first_call(mode: str, function, tensors: dict, options: dict) -> None:
    if mode == "inference":
        with torch.inference_mode():
            function(**tensors, **options)
    elif mode == "fake":
        with FakeTensorMode() as fake:
            given = {k: fake.from_tensor(t) for k, t in tensors.items()}
            rest = {
                k: fake.from_tensor(v) if isinstance(v, torch.Tensor) else v
                for k, v in options.items()
            }
            function(**given, **rest)
    elif mode == "meta":
        with torch.device("meta"):
            function(**tensors, **options)
    else:
        # statistics that move in place are not for torch.func
        options = options | ({"training": False} if "training" in options else {})
        torch.func.vmap(lambda t: function(**t, **options), randomness="error")(
            {k: t[None] for k, t in tensors.items()}
        )


@pytest.mark.parametrize("backend", ["auto", *(n for n in LIVE if n != "reference")])
@pytest.mark.parametrize("mode", GRIDS)
@pytest.mark.parametrize("op", ROWS)
def test_a_first_call_in_another_mode_leaves_the_next_one_right(op, mode, backend):
    row, sizes = ROWS[op], GRIDS[mode]
    if backend != "auto" and not serves(row, backend, F32):
        pytest.skip("no kernel for this operator")
    if mode == "func" and backend not in ("auto", "matmul"):
        pytest.skip("kernels refuse torch.func")
    tensors, options = (place(part, device_of(backend)) for part in row.draw(sizes, F32))
    with fastseg.use_backend(backend):
        first_call(mode, getattr(ops, op), tensors, options)
    check(op, row, backend, sizes, F32)


def test_tables_of_a_device_stay_while_those_of_the_cpu_are_bounded():
    kept = tables.Kept(2, 1)
    device = torch.device("meta")
    on_device = [tables.outer_tables(n, kept, False, F32, device)[0] for n in range(5, 605)]
    on_host = [tables.outer_tables(n, kept, False, F32, tables.CPU)[0] for n in range(5, 605)]
    again = [tables.outer_tables(n, kept, False, F32, device)[0] for n in range(5, 605)]
    assert all(a is b for a, b in zip(on_device, again, strict=True))
    assert tables.outer_tables(5, kept, False, F32, tables.CPU)[0] is not on_host[0]


def test_a_capture_of_a_graph_asks_for_a_call_before_it(monkeypatch):
    table = tables.cached(lambda size, device: [size])
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    before = table(7, device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert table(7, device) is before
    with pytest.raises(RuntimeError, match="before the capture"):
        table(8, device)


@pytest.mark.parametrize(("size", "modes"), [(9, 4), (24, 24), (37, 20), (64, 33)])
@pytest.mark.parametrize("synthesis", [False, True])
def test_fragments_hold_the_table_in_the_order_of_a_warp(size, modes, synthesis):
    axis = tables.kept(modes, two_sided=True)
    first = 1 if synthesis else first_in_tile(axis.distinct, 16)
    made = outer_fragments(size, axis, synthesis, F32, tables.CPU).double().sum(3)
    k, n = torch.arange(first, axis.distinct), torch.arange(size // 2 + 1)
    weights = torch.ones(len(n), dtype=torch.float64)
    weights[(n == 0) | (2 * n == size)] = 1 if synthesis else 0.5
    for which, wanted in enumerate(tables.cos_sin(k, n, size)):
        wanted = wanted * weights[:, None] if synthesis else (wanted * weights[:, None]).T
        rows, depth = wanted.shape
        got = torch.zeros(made.shape[1] * 16, made.shape[0] * 8, dtype=torch.float64)
        for lane in range(32):
            for number in range(4):
                row, place = lane // 4 + number % 2 * 8, lane % 4 + number // 2 * 4
                got[row::16, place::8] = made[:, :, which, lane, number].T
        torch.testing.assert_close(got[:rows, :depth], wanted, rtol=0, atol=2.0**-24)
        assert not got[rows:].any()
        assert not got[:, depth:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fragments_of_16_bits_take_every_fourth_sample(dtype):
    size, axis = 37, tables.kept(20, two_sided=True)
    made = outer_fragments(size, axis, False, dtype, tables.CPU).double().sum(3)
    for which, wanted in enumerate(tables.cos_sin(torch.arange(11), torch.arange(size), size)):
        got = torch.zeros(16, 48, dtype=torch.float64)
        for lane in range(32):
            for number in range(8):
                row = lane // 4 + number // 2 % 2 * 8
                place = lane % 4 + number % 2 * 4 + number // 4 * 8
                got[row, place::16] = made[:, 0, which, lane, number]
        torch.testing.assert_close(got[:11, :size], wanted.T, rtol=0, atol=2.0**-24)
        assert not got[11:].any()
        assert not got[:, size:].any()
