"""Missing modalities of whole patients, slice by slice, by a system of synthesis.

    fastseg sample RUN --data DATA --out PREDICTIONS                   # what is really absent
    fastseg sample RUN --data DATA --out PREDICTIONS --hide t1ce,t2    # what is there, to compare
    fastseg sample RUN --data DATA --out PREDICTIONS --hide every      # all subsets, a folder each
    fastseg sample RUN --data DATA --out OTHERS --hide every --by mean # what it has to beat

A synthesised image is 0 where every image given is. A modality that the case has is written in the
scale of its own volume, so that both can be laid over each other; one that is absent in the mean
scale of the training volumes, which the checkpoint knows. CASE_synthesis.json beside the files says
which. Slices are taken whole: windows of one would be sampled apart and not meet.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.data import nifti
from fastseg.data.cases import Case, Dataset
from fastseg.data.geometry import bounding_box
from fastseg.data.pipeline import augment
from fastseg.data.pipeline.decode import locate, read_case
from fastseg.data.pipeline.intensity import Rule
from fastseg.errors import DataError, UsageError
from fastseg.host.files import write_json

log = logging.getLogger("fastseg")
RECORD = "synthesis.json"  # CASE_ before it: processes that share the cases out share no file
EVERY = "every"
_SCALE_CASES = 32  # training volumes whose mean scale an absent modality gets


@dataclass(frozen=True)
class Known:
    """What is there of one case: image float32 (M, D, H, W) in −1 … 1, lowest where a modality is
    absent; available (M,) bool; brain (D, H, W) bool, where any image is not 0; scales (M, 2)
    stored intensities at −1 and 1, NaN for absent ones; the first file's header.
    """

    image: np.ndarray
    available: np.ndarray
    brain: np.ndarray
    scales: np.ndarray
    header: nifti.Header


def load_known(case: Case, modalities: Sequence[str], rule: Rule) -> Known:
    """The files that a case has, normalised as training batches are. DataError without any."""
    there = np.array([name in case.images and case.images[name].exists() for name in modalities])
    names = [name for name, present in zip(modalities, there, strict=True) if present]
    if not names:
        raise DataError(f"case {case.id}: has none of {', '.join(modalities)}")
    case = replace(case, label=None)
    raw = read_case(case, names)
    rows = rule.rows(locate(raw, case, rule).stats)
    shape = len(modalities), *raw.images[0].shape
    image = np.full(shape, rule.value_range[0], np.float32)
    scales = np.full((len(modalities), 2), np.nan)
    for place, volume, row in zip(np.flatnonzero(there), raw.images, rows.T, strict=True):
        augment.normalise(volume, row[:, None, None, None], rule.of_zero, image[place])
        scales[place] = row[:2]
    brain = np.logical_or.reduce([volume != 0 for volume in raw.images])
    return Known(image, there, brain, scales, raw.header)


def trainable(dataset: Dataset, rule: Rule, with_labels: bool) -> Dataset:
    """The data set for training: complete cases alone, and without labels where none are wanted.

    UsageError for a rule that does not map to −1 … 1; DataError where no case is complete.
    """
    if rule.name not in ("percentile", "window") or tuple(rule.value_range) != (-1, 1):
        raise UsageError(
            f"data.normalise: is {rule.name} to {rule.value_range}; synthesis wants percentile or "
            "window with data.value_range=-1,1"
        )
    complete = [case for case in dataset.cases if all(p.exists() for p in case.images.values())]
    if not complete:
        raise DataError(f"{dataset.root}: no case has all of {', '.join(dataset.modalities)}")
    if left := len(dataset.cases) - len(complete):
        log.warning("%s: %d cases lack a modality and do not train", dataset.root, left)
    if not with_labels:
        complete = [replace(case, label=None) for case in complete]
    return replace(dataset, cases=tuple(complete))


def learn_scales(net: nn.Module, dataset: Dataset, ids: Sequence[str], rule: Rule) -> None:
    """Set the network's `intensities`, the mean scale of each modality, from the training cases
    `ids`: 32 of them at most. Those that cannot be read are left out.
    """
    cases = [dataset.by_id(case_id) for case_id in ids[:: -(-len(ids) // _SCALE_CASES)]]
    found = [known.scales for known in readable(cases, dataset.modalities, rule)]
    if found:
        net.intensities.copy_(torch.from_numpy(np.mean(found, 0)))


def readable(cases: Iterable[Case], modalities: Sequence[str], rule: Rule) -> Iterator[Known]:
    """`load_known` of each case that has all modalities; a warning for each other one."""
    for case in cases:
        try:
            known = load_known(case, modalities, rule)
        except DataError as error:
            log.warning("left out: %s", error)
            continue
        if known.available.all():
            yield known
        else:
            log.warning("left out: case %s lacks a modality", case.id)


@torch.no_grad()
def synthesise_volume(
    net: nn.Module,
    known: Known,
    available: np.ndarray,
    patch: Sequence[int],
    batch_size: int,
    generator: torch.Generator,
    on_slices: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """known.image with the modalities not in `available` (M,) bool synthesised, float32
    (M, D, H, W) in −1 … 1. `on_slices` is told before each batch how many slices of how many are
    done.
    """
    filled = known.image.copy()
    z, y, x = bounding_box(known.brain)
    slices = torch.from_numpy(known.image[:, z, y, x]).movedim(1, 0)
    mask, device = torch.from_numpy(available), next(net.parameters()).device
    for start in range(0, len(slices), batch_size):
        batch = slices[start : start + batch_size].to(device)
        if on_slices is not None:
            on_slices(start, len(slices))
        given = mask.to(device).expand(len(batch), -1)
        found = _on_canvas(net, batch, given, patch, generator).cpu().movedim(0, 1).numpy()
        at = slice(z.start + start, z.start + start + len(batch))
        filled[~available, at, y, x] = found[~available]
    filled[:, ~known.brain] = -1
    return filled


def _on_canvas(
    net: nn.Module, slices: Tensor, available: Tensor, patch: Sequence[int],
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """The slices (B, M, h, w), filled in amid as much background as in training."""
    sizes = [-(-max(n, least) // net.multiple) * net.multiple
             for n, least in zip(slices.shape[2:], patch[-2:], strict=True)]  # fmt: skip
    before = [(want - n) // 2 for want, n in zip(sizes, slices.shape[2:], strict=True)]
    after = [w - n - b for w, n, b in zip(sizes, slices.shape[2:], before, strict=True)]
    canvas = F.pad(slices, (before[1], after[1], before[0], after[0]), value=-1.0)
    found = net.synthesise(canvas, available, generator)
    inside = [slice(b, b + n) for b, n in zip(before, slices.shape[2:], strict=True)]
    return found[(..., *inside)]


def validation_score(
    net: nn.Module, known: Known, patch: Sequence[int], batch_size: int,
    generator: torch.Generator, turn: int,
) -> tuple[float, list[tuple[int, np.ndarray, np.ndarray]]]:  # fmt: skip
    """Mean PSNR in dB over the availability masks, each on a slice of its own, evenly spread; which
    mask is on which slice depends on `turn`. Next to it (slice, available, filled (M, H, W)).
    """
    masks = net.masks().roll(turn, 0)
    z, y, x = bounding_box(known.brain)
    at = np.linspace(z.start, z.stop - 1, len(masks) + 2).round().astype(int)[1:-1]
    device, found = next(net.parameters()).device, []
    slices = torch.from_numpy(known.image[:, at, y, x]).movedim(1, 0)
    for batch, given in zip(slices.split(batch_size), masks.split(batch_size), strict=True):
        filled = _on_canvas(net, batch.to(device), given.to(device), patch, generator)
        found.append(filled.cpu())
    missing = ~masks
    error = (torch.cat(found) - slices).double().square().mean((2, 3)).clamp(min=4e-10)
    decibel = 10 * (4 / error).log10()
    score = ((decibel * missing).sum(1) / missing.sum(1)).mean()
    shown = []
    for index, picture in enumerate(torch.cat(found).numpy()):
        whole = known.image[:, at[index]].copy()
        whole[:, y, x] = picture
        shown.append((int(at[index]), masks[index].numpy(), whole))
    return float(score), shown


def plans(
    net: nn.Module, modalities: Sequence[str], there: np.ndarray, hide: Sequence[str]
) -> list[tuple[str, np.ndarray]]:
    """(subfolder, available) of each synthesis of a case that has the modalities `there`; masks
    that nothing is left of, or to do for, are not in it.
    """
    if tuple(hide) == (EVERY,):
        masks = net.masks().numpy()
        named = [("+".join(np.array(modalities)[mask]), mask) for mask in masks]
        return [(name, mask) for name, mask in named if not (mask & ~there).any()]
    mask = there & ~np.isin(modalities, hide)
    if not mask.any() or mask.all():
        return []
    return [("", mask)]


def check_hidden(hide: Sequence[str], modalities: Sequence[str]) -> tuple[str, ...]:
    """UsageError for names that the network does not know, or all that it knows."""
    from fastseg.data.cases.layouts import canonical

    names = tuple(map(canonical, hide))
    if names != (EVERY,) and not set(names) < set(modalities):
        raise UsageError(
            f"hide: is {', '.join(hide)}; wanted {EVERY}, or some but not all of "
            f"{', '.join(modalities)}"
        )
    return names


def write_missing(
    net: nn.Module, case: Case, known: Known, available: np.ndarray, filled: np.ndarray,
    out: Path, suffix: str,
) -> list[Path]:  # fmt: skip
    """Write out/CASE_MODALITY_<suffix>.nii.gz for each modality not `available`, and its scale to
    the record beside them.
    """
    written, rows, scales = [], {}, net.intensities.double().cpu().numpy()
    scales = np.where(known.available[:, None], known.scales, scales)
    out.mkdir(parents=True, exist_ok=True)
    given = [name for name, there in zip(net.modalities, available, strict=True) if there]
    for place in np.flatnonzero(~available):
        name, (low, high) = net.modalities[place], scales[place]
        image = low + (filled[place].clip(-1, 1) + 1) / 2 * (high - low)
        path = out / f"{case.id}_{name}_{suffix}.nii.gz"
        nifti.write(path, np.where(known.brain, image, 0).astype(np.float32), known.header)
        rows[path.name] = {
            "case": case.id,
            "modality": name,
            "given": given,
            "scale": [low, high],
            "own_scale": bool(known.available[place]),
        }
        written.append(path)
    write_json(out / f"{case.id}_{RECORD}", read_record(out, case.id) | rows)
    return written


def read_record(folder: Path, case_id: str = "*") -> dict[str, dict]:
    """By file name, what `write_missing` noted in a folder, of one case or of all; empty where it
    noted nothing.
    """
    rows = {}
    for path in sorted(folder.glob(f"{case_id}_{RECORD}")):
        try:
            rows |= json.loads(path.read_text())
        except ValueError as error:
            raise DataError(f"{path}: is not JSON ({error})") from None
    return rows
