"""Features that do not tell domains apart: a classifier of domains behind a reversal of gradients
(DANN: Ganin et al., JMLR 2016).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Reversal(torch.autograd.Function):
    """Identity, whose gradient has another sign and size."""

    @staticmethod
    def forward(ctx, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad, None


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """Return x of any shape as it is; its gradient is multiplied by −strength.

    >>> x = torch.ones(2, requires_grad=True)
    >>> reverse_gradient(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """
    return _Reversal.apply(x, strength)


def dann_curve(progress: float) -> float:
    """Return 2 / (1 + exp(−10 progress)) − 1, which grows from 0 at the start of a run, progress 0,
    to 1 at its end (Ganin et al., 2016, section 5.2.2).

    >>> f"{dann_curve(0.1):.2f}"
    '0.46'
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1


class DomainHead(nn.Module):
    """Which domain features come from, trained against the network that makes them.

    domains: their number, from 2. weight: λ of the loss when all of the schedule is there; schedule
    "dann" has it grow along `dann_curve`, "constant" does not. The gradient that enters the network
    is −α(progress)·λ(progress) times that of the cross-entropy, α the `dann_curve`.

    Layers: mean over space, normalisation of each sample's features, features → hidden → domains.
    The normalisation is ours: the network that is to confuse the classifier could otherwise raise
    the cross-entropy without end, by features that grow.
    """

    def __init__(self, features: int, domains: int, *, hidden: int = 64, weight: float = 0.1,
                 schedule: str = "dann"):  # fmt: skip
        super().__init__()
        self.domains, self.weight, self.schedule = domains, weight, schedule
        layers = nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, domains)
        self.classifier = nn.Sequential(*layers)

    def weight_at(self, progress: float) -> float:
        """Return λ when the share `progress` of the run is done."""
        return self.weight * (dann_curve(progress) if self.schedule == "dann" else 1.0)

    def forward(
        self, features: Tensor, domain: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return λ·cross-entropy of the classifier behind the reversal, and what to log.

        Args:
            features: (B, features, *S).
            domain: (B,) integer, 0 … domains − 1.
            progress: the share of the run that is done.

        Returns:
            the loss, and so that a reversal that does nothing shows: "domain_ce",
            "domain_accuracy", "domain_gradient" (the norm of the gradient that enters the network,
            at the mean over space), "reversal" (α) and "domain_weight" (λ).

        Raises:
            ValueError: other domains.
        """
        if domain.shape != features.shape[:1] or not 0 <= int(domain.min()) <= int(domain.max()) < (
            self.domains
        ):
            raise ValueError(
                f"domain: is {domain.tolist()}, wanted one of 0 … {self.domains - 1} for each of "
                f"{len(features)} samples"
            )
        alpha, weight = dann_curve(progress), self.weight_at(progress)
        pooled = features.float().flatten(2).mean(2)
        shown = F.layer_norm(reverse_gradient(pooled, alpha), pooled.shape[1:])
        logits = self.classifier(shown).float()
        ce = F.cross_entropy(logits, domain.long())
        loss = weight * ce
        parts = {"domain_ce": ce, "domain_accuracy": (logits.argmax(1) == domain).float().mean()}
        if pooled.requires_grad:
            [gradient] = torch.autograd.grad(loss, pooled, retain_graph=True)
            parts["domain_gradient"] = gradient.norm()
        parts |= {"reversal": torch.tensor(alpha), "domain_weight": torch.tensor(weight)}
        return loss, {name: part.detach() for name, part in parts.items()}
