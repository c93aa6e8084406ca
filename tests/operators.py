"""The registry of operators under test: one row an op, and what every op is held to.

A family's rows live in `rows_<family>.py`. A row draws the arguments of one call on a grid; the
float64 truth is the op's namesake in `fastseg.reference`, or the row's own `exact`.
"""

import os
import zlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from tolerances import BACKWARD, BF16, F16, F32, F64, FORWARD, assert_near, wide

import fastseg
from fastseg import ops, reference
from fastseg.ops import impl

# kernels that run in an interpreter or an emulator are a thousand times slower than hardware
FEW = bool(os.environ.get("FASTSEG_TEST_FEW"))
LIVE = [name for name, status in fastseg.backends().items() if status]
OF_TORCH = ("reference", "matmul")
NOT_OPS = ("backends", "use_backend")


class Row(NamedTuple):
    """How to test one op.

    draw(sizes, dtype) → (tensors by argument name, which all get gradients; other arguments).
    tables: the families of kernels it needs, by their names in `impl`. relative_to: the
    argument to whose norm errors are relative, where the result itself may vanish.
    """

    draw: Callable
    grids: list
    few: list
    tables: tuple
    exact: Callable | None = None
    relative_to: str | None = None
    batched: tuple = ("x",)  # arguments with a batch axis in front

    def chosen(self, backend: str, dtype: torch.dtype) -> list:
        if FEW:
            return self.few
        # torch's own ops load and store 16 bits alike on every grid
        fewer = backend in OF_TORCH and dtype in (F16, BF16)
        return self.grids[::3] if fewer else self.grids


class Draw:
    """Seeded tensors, rounded to the dtype they are passed in."""

    def __init__(self, seed: object, dtype: torch.dtype):
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(zlib.crc32(repr(seed).encode()))

    def real(self, *shape, dtype=None):
        x = torch.randn(shape, generator=self.generator, dtype=F64)
        return x.to(dtype or self.dtype)

    def uniform(self, low, high, *shape, dtype=None):
        x = torch.rand(shape, generator=self.generator, dtype=F64) * (high - low) + low
        return x.to(dtype or self.dtype)

    def complex(self, *shape, scale=1.0):
        dtype = torch.complex128 if self.dtype == F64 else torch.complex64
        z = torch.randn(shape, generator=self.generator, dtype=torch.complex128) * scale
        return z.to(dtype)

    def parameter(self, *shape):
        """In the dtype that parameters have beside inputs of this dtype."""
        return self.real(*shape, dtype=F64 if self.dtype == F64 else F32)

    def like(self, y):
        return self.complex(*y.shape) if y.is_complex() else self.real(*y.shape, dtype=y.dtype)


def device_of(backend: str) -> str:
    return impl.SERVES.get(backend, "cpu")


def place(arguments: dict, device) -> dict:
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}


def serves(row: Row, backend: str, dtype: torch.dtype) -> bool:
    if backend in OF_TORCH:
        return True
    in_tables = all(backend in getattr(impl, table) for table in row.tables)
    return in_tables and not impl.unable(backend, device_of(backend), dtype)


def outputs_of(result) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def run(function, tensors: dict, options: dict, gradient_of):
    """Outputs and gradients; `gradient_of` makes an output's gradient. Buffers are copied first."""
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    options = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    results = outputs_of(function(**leaves, **options))
    grads = torch.autograd.grad(
        results, list(leaves.values()), [gradient_of(y) for y in results], allow_unused=True
    )
    return results, grads


def positional(function, names, options):
    """The function of tensors alone, which leaves the buffers among its options as they were."""

    def call(*values):
        fresh = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        return outputs_of(function(**dict(zip(names, values, strict=True)), **fresh))

    return call


def dot(a, b):
    return (a.conj() * b).real.sum()


def second(function, tensors, options, draw):
    """The derivatives of Σ ⟨v, gradient⟩ by every tensor and every gradient of a result."""
    leaves = [t.detach().requires_grad_() for t in tensors.values()]
    results = positional(function, tensors, options)(*leaves)
    given = [draw(y).requires_grad_() for y in results]
    grads = torch.autograd.grad(results, leaves, given, create_graph=True)
    loss = sum(dot(draw(g), g) for g in grads)
    found = torch.autograd.grad(loss, leaves + given, allow_unused=True)
    return [
        torch.zeros_like(t) if g is None else g for t, g in zip(leaves + given, found, strict=True)
    ]


def saved_by(function):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = function()
    return outputs_of(y), saved


def _widened(options: dict) -> dict:
    options = {k: wide(v) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return options | ({"dtype": F64} if "dtype" in options else {})


def truth(op: str, row: Row, tensors: dict, options: dict, grads: list):
    doubles = {name: wide(t) for name, t in tensors.items()}
    given = iter(grads)
    return run(
        row.exact or getattr(reference, op), doubles, _widened(options), lambda _: wide(next(given))
    )


def _once(known: dict, key: tuple, make: Callable):
    if key not in known:
        known[key] = make()
    return known[key]


def check(
    op: str, row: Row, backend: str, sizes: tuple, dtype: torch.dtype, known: dict | None = None
) -> None:
    """Outputs and every gradient of one call against float64 on the same, rounded, inputs.

    known: keeps what was drawn and what is exact, for other backends of this op, row and dtype.
    """
    known, device = {} if known is None else known, device_of(backend)
    tensors, options = _once(
        known,
        ("drawn", sizes, device),
        lambda: [place(part, device) for part in row.draw(sizes, dtype)],
    )
    draw, given = Draw((op, sizes, "gradient"), dtype), []

    def gradient_of(y):
        given.append(draw.like(y).to(y.device))
        return given[-1]

    with fastseg.use_backend(backend):
        results, grads = run(getattr(ops, op), tensors, options, gradient_of)
    exact, exact_grads = _once(
        known, ("exact", sizes, device), lambda: truth(op, row, tensors, options, given)
    )
    what = f"{op} {backend} {dtype} {sizes} {options}"
    norm = wide(tensors[row.relative_to]).norm().item() if row.relative_to else None
    for index, (y, want) in enumerate(zip(results, exact, strict=True)):
        assert_near(y, want, FORWARD, f"output {index}, {what}", norm)
    for (name, leaf), actual, want in zip(tensors.items(), grads, exact_grads, strict=True):
        assert actual.dtype == leaf.dtype, f"{what}: gradient of {name} is {actual.dtype}"
        assert_near(actual, want, BACKWARD, f"gradient of {name}, {what}", norm)


def rows() -> dict[str, Row]:
    import rows_fourier_unit
    import rows_gaussian
    import rows_spectral

    return {**rows_spectral.ROWS, **rows_fourier_unit.ROWS, **rows_gaussian.ROWS}


ROWS = rows()
