"""What a case of the benchmark is: shape, options, and how they are said in words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One operator on x (B, C, *S), to as many output channels."""

    id: str
    shape: tuple[int, ...]
    modes: tuple[int, ...] = ()
    source: str = ""
    family: str = "spectral"

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def title(self) -> str:
        """Shape and options in words."""
        return ", ".join(["×".join(map(str, self.shape)), *self._options()])

    def _options(self) -> list[str]:
        return ["modes " + "×".join(map(str, self.modes))] if self.modes else []


# the usual Gaussian filters, as options of `ops.gaussian_filter`
DEFINITIONS = {
    "circular": {},
    "MONAI's": {"taps": "erf", "padding": "zeros", "truncate": 4.0},
    "reflect, 21 taps": {"padding": "reflect", "radius": 10},
}


@dataclass(frozen=True)
class GaussianCase(Case):
    """Low and high of one filter; a pair `sigma` goes evenly from one to the other over samples."""

    sigma: float | tuple[float, float] = 2.0
    definition: str = "circular"
    family: str = "gaussian"

    @property
    def sigmas(self) -> list[float]:
        """One a sample."""
        first, last = self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)
        steps = max(self.shape[0] - 1, 1)
        return [first + (last - first) * i / steps for i in range(self.shape[0])]

    def _options(self) -> list[str]:
        width = "…".join(map(str, self.sigma)) if isinstance(self.sigma, tuple) else self.sigma
        return [f"σ {width}", self.definition]


@dataclass(frozen=True)
class FactorisedCase(Case):
    """A spectral convolution whose weight is in factors, with `rank` of its numbers."""

    kind: str = "Tucker"
    rank: float = 0.1
    family: str = "factorised"

    def _options(self) -> list[str]:
        return [*super()._options(), f"{self.kind}, rank {self.rank}"]


@dataclass(frozen=True)
class VFFCCase(Case):
    """Blocks of fast Fourier convolutions, `ratio` of the channels global."""

    ratio: float = 0.5
    local: bool = False
    family: str = "vffc"

    def _options(self) -> list[str]:
        return [f"ratio {self.ratio}", "with LFU" if self.local else "without LFU"]


@dataclass(frozen=True)
class GateCase(Case):
    """Features of `shape`, gated by a condition of fewer channels."""

    cond_channels: int = 32
    radius: int = 2
    family: str = "gate"

    @property
    def cond_shape(self) -> tuple[int, ...]:
        return (self.shape[0], self.cond_channels, *self.sizes)

    def _options(self) -> list[str]:
        return [f"condition of {self.cond_channels} channels", f"radius {self.radius}"]


@dataclass(frozen=True)
class SystemCase(Case):
    """A whole system on a batch of slices or volumes: its prediction, which diffusion systems
    sample in `steps` steps of DDIM, and the loss of a training step with its gradients.

    `settings` are other options of the model.
    """

    system: str = ""
    width: int = 32
    steps: int | None = 10
    settings: tuple[tuple[str, object], ...] = ()
    family: str = "system"

    def _options(self) -> list[str]:
        steps = [] if self.steps is None else [f"{self.steps} steps"]
        return [f"width {self.width}", *steps]

    @property
    def model(self) -> dict[str, object]:
        """Options of `models.build`."""
        return {
            "width": self.width,
            **({} if self.steps is None else {"sampling_steps": self.steps, "sampler": "ddim"}),
            **dict(self.settings),
        }
