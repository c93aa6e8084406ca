"""A gradient penalty, the squares of a loss's gradient by the images, differentiated by images and
weights: time and memory of two backwards, ours beside torch.matmul and torch.fft.

    python bench/penalty.py --out penalty.json

All take turns in every round. Before the clock each is compared with float64: gradients of loss
and penalty together, to twice the tolerance of one backward. "kept" is what autograd keeps of both
graphs before the second backward, the parameters' own memory left out.
"""

import argparse
from collections.abc import Callable

import records
import reports
import torch
from torch import Tensor

from fastseg import reference
from fastseg.bench import accuracy, cases, layers, memory, providers, timing
from fastseg.bench.layers import Layer, outputs
from fastseg.bench.tolerances import TOLERANCES

CASES = ("conv2d-240", "conv2d-64", "fourier-unit-64x16", "gaussian2d-240")
PROVIDERS = ("reference", "matmul", "fastseg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, help="of fastseg bench")
    parser.add_argument("--quick", action="store_true", help="small shapes")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds a case (10)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", help="write FILE.json and FILE.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = {k: v for k, v in vars(arguments).items() if k not in ("out", "cases")}
    record = records.begin(options)
    record["penalty"] = [
        measured(cases.CASES[name], arguments.quick, arguments.budget) for name in arguments.cases
    ]
    records.save(record, reports.penalty(record), arguments.out)


def objective(forward: Callable, x: tuple[Tensor, ...]) -> Tensor:
    """Half the squares of a layer's results, plus the squares of their gradient by x."""
    loss = sum(y.square().sum() for y in outputs(forward(*x))) / 2
    grads = torch.autograd.grad(loss, x, create_graph=True)
    return loss + sum(g.square().sum() for g in grads)


def measured(case: cases.Case, quick: bool, budget_s: float) -> dict:
    """Errors, memory and times of a case, by provider."""
    case = cases.quick(case) if quick else case
    inputs = accuracy.draw(case, torch.float32)
    family, exact = providers.FAMILIES[case.family], truth(case, inputs)
    for x in inputs.x:
        x.requires_grad_()
    rows, runs, alive = {}, {}, []
    for name in PROVIDERS:
        build = layers.on_backend(family, "auto" if name == "fastseg" else name)
        layer = build(case, inputs)
        alive.append(layer)
        run = runs[name] = _twice(layer, inputs.x)
        error = accuracy.relative_l2(run(), exact)
        bound = 2 * TOLERANCES["float32"][1]
        kept = memory.saved_bytes(
            lambda *x, layer=layer: objective(layer.forward, x), layer.parameters, *inputs.x
        )
        peak = memory.peak_bytes(run, inputs.x[0].device)
        rows[name] = {"backend": layer.backend, "error": error, "allowed": bound,
                      "kept_bytes": kept, "peak_bytes": peak}  # fmt: skip
    seconds = timing.interleave(runs, budget_s, 5)
    for name, values in seconds.items():
        rows[name] |= {"seconds": values, "quartiles_s": timing.spread(values),
                       "over_ours": timing.paired_ratio(values, seconds["fastseg"])}  # fmt: skip
    x_bytes = sum(x.nbytes for x in inputs.x)
    return {"case": case.id, "title": case.title, "x_bytes": x_bytes, "providers": rows}


def _twice(layer: Layer, x: tuple[Tensor, ...]) -> Callable:
    wanted = (*x, *layer.parameters)
    return lambda: torch.autograd.grad(objective(layer.forward, x), wanted)


def truth(case: cases.Case, inputs: layers.Inputs) -> tuple[Tensor, ...]:
    """The same gradients in float64 by `fastseg.reference`."""
    family = providers.FAMILIES[case.family]
    double = inputs.each(lambda t: t.to(torch.complex128 if t.is_complex() else torch.float64))
    x, weights = layers.leaves(double.x), layers.leaves(double.weights)
    operator = family.operator(reference, case, double.constants)
    return _twice(Layer(lambda *x: operator(x, weights, True), weights), x)()


if __name__ == "__main__":
    main()
