"""The ids that cases had before their names said what they are, for commands and records of then.

A name is operator, size of the largest axis (behind the channels where those tell cases apart) and
variant, as conv3d-96 (a spectral convolution), fourier-unit-64x16, gaussian2d-240-monai.
"""

import math

_SPECTRAL = {
    "A1": "conv2d-240", "A2": "conv2d-192", "A3-64": "conv2d-64", "A3-85": "conv2d-85",
    "A3-421": "conv2d-421", "A4": "conv2d-256", "B1": "conv3d-64", "B2": "conv3d-120",
    "B3": "conv3d-240", "B4": "conv3d-96",
}  # fmt: skip
_BLOCKS = {"F-A1": "block2d-240", "F-A2": "block2d-192", "F-B4": "block3d-96"}
_FOURIER_UNITS = {
    "C1-64": "fourier-unit-64x16", "C1-128": "fourier-unit-128x16", "C1-48": "fourier-unit-48x32",
    "C1-32": "fourier-unit-32x48", "C2-0.5": "vffc-0.5", "C2-0.5-LFU": "vffc-0.5-lfu",
    "C2-0.75": "vffc-0.75", "C2-0.75-LFU": "vffc-0.75-lfu",
}  # fmt: skip
_FILTERS = {
    "D1-fixed": "gaussian2d-240", "D1-sigmas": "gaussian2d-240-sigmas",
    "D1-monai": "gaussian2d-240-monai", "D1-reflect": "gaussian2d-256-reflect",
    "D2-128": "gaussian3d-128", "D2-monai": "gaussian3d-128-monai", "D2-155": "gaussian3d-240",
    "E1-32": "filter-32", "E1-16": "filter-16", "G1": "gate-256",
}  # fmt: skip
_CROSSOVER = {
    f"X{size}-N{former}": f"crossover-{size}-n{divisor}"
    for size in (128, 192, 240, 256, 384, 512)
    for divisor, former in ((8, "/8"), (4, "/4"), (2, "/2"), (1, ""))
}
_SYSTEMS = {
    f"S-{system}": f"system-{system}"
    for system in ("diffusion-unet", "fno-diffusion", "fno-unet", "fgc2f-udiff", "medsegdiff-v2",
                   "segresnet-vffc")
}  # fmt: skip
FORMER = {**_SPECTRAL, **_BLOCKS, **_FOURIER_UNITS, **_FILTERS, "tiny": "call", **_CROSSOVER,
          **_SYSTEMS}  # fmt: skip
_QUICK = "-quick"  # behind the name of a case that was made small


def current(name: str) -> str:
    """Return the name of a case, given that or its former id, quick or not."""
    stem = name.removesuffix(_QUICK)
    return FORMER.get(stem, stem) + name[len(stem) :]


def matching(word: str, names) -> list[str]:
    """Return those of `names` that a word of the command line stands for.

    Args:
        word: a name; the beginning of several up to a hyphen ("conv2d"); either as formerly
            written ("A1", "A3").
        names: the names to choose from.
    """
    formerly = {name: former for former, name in FORMER.items()}
    exact = [name for name in names if word in (name, formerly.get(name))]
    return exact or [
        name for name in names
        if any(known.startswith(f"{word}-") for known in (name, formerly.get(name, "")))
    ]  # fmt: skip


def renewed(record: dict) -> dict:
    """Return a record as one of today: by the names, with the fields that the first ones lacked."""
    shared = {"quick": False, "gpu": False, "dtype": "float32", "tf32": False}
    return record | {
        "options": shared | record["options"],
        "cases": [_renewed_case(result) for result in record["cases"]],
        "checks": [
            check | {"case": current(check["case"])} for check in record.get("checks", [])
        ],
    }  # fmt: skip


def _renewed_case(result: dict) -> dict:
    found = result | {"id": current(result["id"])}
    if "shape" not in result:  # a case that failed
        return found
    words = ["×".join(map(str, result["shape"]))]
    if result.get("modes"):
        words.append("modes " + "×".join(map(str, result["modes"])))
    first = {"title": ", ".join(words), "x_bytes": 4 * math.prod(result["shape"])}
    return first | found
