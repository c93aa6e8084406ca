"""E-full: E-bezier with both the Fourier bottleneck and the gradient reversal. The write-up has
mean Dice 0.71 on T2, 0.03 on T1, 0.10 on T1ce, 0.58 on FLAIR: no gain, with its two domains alike.

What the code does, but for its learning rate that hardly moves: data.bezier_domains=1,2
data.legacy_bezier=true model.domains=2 model.domain_schedule=constant model.vffc_norm=batch
data.flip=false data.flip_depth=false data.rotate90=false grad_clip=null
"""

from fastseg.config import Recipe
from fastseg.recipes import make, segresnet_grl, segresnet_vffc

SYSTEM = segresnet_vffc.SYSTEM
SETTINGS = segresnet_vffc.SETTINGS | {"model.domains": segresnet_grl.SETTINGS["model.domains"]}


def recipe() -> Recipe:
    """Make E-vffc with the classifier."""
    return make(__name__, SYSTEM, SETTINGS)
