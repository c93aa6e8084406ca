"""Images beside noisy label maps: a convolution of both computes an image's share once."""

from torch import Tensor, nn
from torch.nn import functional as F


class Joint:
    """Images (B, C, *S) and, beside some of them, noisy label maps: the denoiser's input in
    sampling. A convolution of both computes an image's share once, whatever the number of steps.

    >>> import torch
    >>> image, mask, rows = torch.rand(1, 2, 4, 4), torch.rand(3, 1, 4, 4), torch.tensor([0, 0, 0])
    >>> conv = nn.Conv2d(3, 5, 3, padding=1)
    >>> both = convolved(conv, Joint(image).beside(mask, rows))
    >>> torch.allclose(both, conv(torch.cat([image[rows], mask], 1)), atol=1e-6)
    True
    """

    def __init__(self, image: Tensor):
        self.image, self._shares = image, {}

    def beside(self, mask: Tensor, rows: Tensor) -> "Joint":
        """Put images rows (b,) beside masks (b, K, *S), to be convolved; shares stay known."""
        joint = Joint(self.image)
        joint._shares, joint._mask, joint._rows = self._shares, mask, rows
        return joint

    def through(self, conv: nn.Module) -> Tensor:
        """Return conv(cat([image[rows], mask], 1)), the image's share from memory."""
        convolve, known = (F.conv2d, F.conv3d)[conv.weight.dim() - 4], self.image.shape[1]
        weight, options = conv.weight, (conv.stride, conv.padding)
        if conv not in self._shares:
            self._shares[conv] = convolve(self.image, weight[:, :known], conv.bias, *options)
        moving = convolve(self._mask, weight[:, known:], None, *options)
        return moving + self._shares[conv][self._rows]


def convolved(conv: nn.Module, x: Tensor | Joint) -> Tensor:
    """Return conv(x) where x may be a `Joint`."""
    return x.through(conv) if isinstance(x, Joint) else conv(x)
