"""LPIPS (Zhang et al., 2018) where the `lpips` package and its backbone's weights are at hand."""

from pathlib import Path

import numpy as np

_BACKBONE = "alexnet-owt-7be5be79.pth"  # torchvision's name for it


class Lpips:
    """Mean LPIPS of slices (D, H, W) in 0 … 1, with the AlexNet backbone, grey as RGB."""

    def __init__(self):
        import lpips

        self.net = lpips.LPIPS(net="alex", verbose=False).eval()

    @classmethod
    def at_hand(cls) -> "Lpips | None":
        """Make one; None without the package, or where it would have to download something."""
        try:
            import lpips  # noqa: F401
            import torch
        except ImportError:
            return None
        if not (Path(torch.hub.get_dir()) / "checkpoints" / _BACKBONE).exists():
            return None
        return cls()

    def __call__(self, pred: np.ndarray, true: np.ndarray) -> float:
        import torch

        pair = [torch.from_numpy(x.astype(np.float32))[:, None] * 2 - 1 for x in (pred, true)]
        with torch.no_grad():
            return float(self.net(*(x.expand(-1, 3, -1, -1) for x in pair)).mean())
