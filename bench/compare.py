"""The same layers, or training steps, of two checkouts, timed in turns.

    python bench/compare.py BEFORE AFTER [ROW …] [--systems] [--rounds 15]

BEFORE and AFTER are folders of sources with their kernels built in. Each has a process of its own
a row; in every round both work once, in an order that changes. Options and systems are those of
each checkout's own recipes, made small.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

LAYERS = {  # row: class of fastseg.nn, its arguments, shapes of its inputs
    "conv2d-240": ("SpectralConv", (16, 16, (20, 10)), [(8, 16, 240, 240)]),
    "conv2d-64": ("SpectralConv", (32, 32, (24, 12)), [(20, 32, 64, 64)]),
    "conv3d-96": ("SpectralConv", (32, 32, (24, 24, 12)), [(2, 32, 96, 96, 96)]),
    "block2d-240": ("FNOBlock", (16, 16, (20, 10)), [(8, 16, 240, 240)]),
    "fourier-unit-64x16": ("FourierUnit", (64, 64), [(2, 64, 16, 16, 16)]),
    "gaussian2d-240": ("GaussianFilter", (3.0,), [(16, 4, 240, 240)]),
    "filter-32": ("FFParser", (128, (32, 32)), [(8, 128, 32, 32)]),
    "gate-256": ("AnchorGate", (32,), [(2, 32, 256, 256), (2, 128, 256, 256)]),
    "call": ("SpectralConv", (1, 1, (4, 3)), [(1, 1, 8, 8)]),
}
SETTLE_S = 0.02  # in which the threads of who had its turn fall asleep
CALLS = 200  # of a tiny tensor, timed together
SYSTEMS = ("fno", "fno3d", "diffusion_unet", "fno_diffusion", "fno_unet", "hnoseg3d", "segresnet",
           "segresnet_vffc", "unet3d", "medsegdiff_v1", "medsegdiff_v2", "fgc2f_udiff")  # fmt: skip
SMALL = {"width": 8, "blocks": 1, "blocks_down": (1, 1), "blocks_up": (1,), "levels": 2,
         "multipliers": (1, 2), "attention_levels": (1,), "condition_width": 4, "ensemble": 1,
         "anchor_levels": 1, "ssformer_channels": 8, "ssformer_blocks": 1,
         "ssformer_heads": 2, "heads": 1}  # fmt: skip
WARM = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def layer(row: str):
    """Return {pass: a call} of a layer with random weights and inputs."""
    import torch

    kind, arguments, shapes = LAYERS[row]
    net, x = getattr(import_module("fastseg.nn"), kind)(*arguments), list(map(torch.randn, shapes))
    wanted = [*(t.requires_grad_() for t in x), *net.parameters()]

    @torch.no_grad()
    def forward(count=1):
        for _ in range(count):
            net(*x)

    if row == "call":
        return {f"{CALLS}-calls": lambda: forward(CALLS)}
    training = lambda: torch.autograd.grad(net(*x).sum(), wanted)  # noqa: E731
    return {"forward": forward, "forward+backward": training}


def system(recipe: str):
    """Return {"step": a call}: loss, gradients and optimiser of a recipe's system made small."""
    import torch

    found = import_module(f"fastseg.recipes.{recipe}").recipe()
    model, axes = found.model, len(found.data.patch)
    options = dict(model if isinstance(model, dict) else vars(model))
    options |= {key: value for key, value in SMALL.items() if options.get(key)}
    names = ("t1",) if found.data.single_modality else ("t1", "t1ce", "t2", "flair")
    net = import_module("fastseg.models").build(
        found.system, in_channels=len(names), classes=4, modalities=names,
        regions=((1, 2, 3), (1, 3), (3,)), **options,
    )  # fmt: skip
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-4)
    size, draw = (2, *(64 if axes == 2 else 32,) * axes), torch.Generator()
    batch = {"image": torch.randn(2, len(names), *size[1:]), "progress": 0.5, "case": ["a", "b"],
             "label": torch.randint(4, size).to(torch.uint8)}  # fmt: skip

    def step():
        optimiser.zero_grad()
        net.training_loss(batch, draw.manual_seed(0))[0].backward()
        optimiser.step()

    return {"step": step}


def work(row: str, checkout: Path) -> None:
    """Run a pass whenever its name comes in; write its seconds."""
    if checkout.resolve() not in (found := Path(import_module("fastseg").__file__)).parents:
        raise SystemExit(f"{checkout}: python imports {found} instead")
    passes = layer(row) if row in LAYERS else system(row)
    for run in passes.values():
        run()
    print(*passes, flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        passes[line.strip()]()
        print(time.perf_counter() - begin, flush=True)


def compare(row: str, checkouts: list[Path], rounds: int) -> None:
    """Print the medians of both and the median ratio of every pass of a row."""
    command = [sys.executable, __file__, "--worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    own = [os.environ | WARM | {"PYTHONPATH": str(path.resolve())} for path in checkouts]
    workers = [
        subprocess.Popen([*command, path, path, row], env=variables, **pipes)
        for path, variables in zip(checkouts, own, strict=True)
    ]
    passes, others = (worker.stdout.readline().split() for worker in workers)
    if not passes or passes != others:
        raise SystemExit(f"{row}: passes are {passes} and {others}; errors stand above")
    for which in passes:
        seconds = [[], []]
        for turn in range(rounds):
            for i in (turn % 2, 1 - turn % 2):
                time.sleep(SETTLE_S)
                workers[i].stdin.write(which + "\n")
                seconds[i].append(float(workers[i].stdout.readline()))
        before, after = (1e3 * statistics.median(values) for values in seconds)
        ratio = statistics.median(b / a for b, a in zip(*seconds, strict=True))
        print(f"| {row} | {which} | {before:.3f} | {after:.3f} | {ratio:.3f} |", flush=True)
    for worker in workers:
        worker.communicate()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs=2, type=Path, metavar="CHECKOUT")
    names = ", ".join((*LAYERS, *SYSTEMS))
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {names} (all layers)")
    parser.add_argument("--systems", action="store_true", help="a training step of each")
    parser.add_argument("--rounds", type=int, default=15, help="of each pass (%(default)s)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return work(given.rows[0], given.checkouts[0])
    if not {*given.rows} <= {*LAYERS, *SYSTEMS}:
        parser.error(f"ROW: is {' '.join(given.rows)}, wanted some of {names}")
    print("| row | pass | before, ms | after, ms | before ÷ after |\n|---|---|---|---|---|")
    for row in [*given.rows, *SYSTEMS] if given.systems else given.rows or LAYERS:
        compare(row, given.checkouts, given.rounds)


if __name__ == "__main__":
    main()
