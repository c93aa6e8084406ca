"""Find the cases of a data set, check their files, split them by patient.

dataset = discover("BraTS2021")                 # also nnU-Net and MONAI descriptions
split = split_cases(dataset, seed=0)            # {"train": [ids], "val": [ids], "test": [ids]}
"""

from fastseg.data.cases.dataset import Dataset, summarise
from fastseg.data.cases.discovery import discover
from fastseg.data.cases.integrity import Problem, check
from fastseg.data.cases.labels import BRATS, LabelScheme
from fastseg.data.cases.layouts import Case
from fastseg.data.cases.split import load_split, save_split, split_cases

__all__ = [
    "BRATS",
    "Case",
    "Dataset",
    "LabelScheme",
    "Problem",
    "check",
    "discover",
    "load_split",
    "save_split",
    "split_cases",
    "summarise",
]
