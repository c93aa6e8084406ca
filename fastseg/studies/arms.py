"""The comparisons that `fastseg study` knows, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a recipe, and the settings that make it this arm."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A comparison of `arms`, the first of which is what the others are tested against.

    `common` are settings that replace those of every arm's recipe. Networks of one channel are also
    tested on each of `modalities`, whatever they were trained on. Arms of synthesis are scored on
    the subsets that come of `hide`, as `fastseg.sample.sample` has it, and the first one is put to
    further `checks`.
    """

    question: str
    arms: tuple[Arm, ...]
    common: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    hide: tuple[str, ...] = ("every",)
    checks: bool = False


STUDIES = {
    "medsegdiff": Study(
        "What do MedSegDiff-V2's parts add: spatial attention (SA), its uncertain form (U-SA), the "
        "spectrum-space transformer without its filter, and the filter?",
        tuple(
            Arm(name, "medsegdiff_v2_small", (f"model.anchor={anchor}", f"model.ssformer={former}"))
            for name, anchor, former in (
                ("none", "none", "off"),
                ("sa", "sa", "off"),
                ("usa", "usa", "off"),
                ("usa-nofilter", "usa", "nofilter"),
                ("all", "usa", "nbp"),
            )
        ),
    ),
    "fusion": Study(
        "Does a global spectral branch give a U-shaped network what more width does not?",
        tuple(
            Arm(name, "fno_unet", (f"model.arm={name}",))
            for name in ("local", "local-wide", "spectral", "fused")
        ),
    ),
    "tracks": Study(
        "How do the FNO baseline (A), the diffusion U-shape (B) and the FNO-diffusion hybrid, as "
        "published (C-legacy) and corrected (C-fixed), compare? Loss, optimiser and learning rate "
        "are each system's own.",
        (
            Arm("A", "fno"),
            Arm("B", "diffusion_unet"),
            Arm("C-legacy", "fno_diffusion_legacy"),
            Arm("C-fixed", "fno_diffusion"),
        ),
        # those of B and C, where A's source has none, or others
        ("schedule=poly", "epochs=300", "patience=50", "data.batch_size=32"),
    ),
    "synthesis": Study(
        "What do the parts of FgC2F-UDiff give: the frequency guide, its two stages and their "
        "order, the choice of its source, the curriculum, the number of steps?",
        (
            Arm("coarse-to-fine", "fgc2f_udiff"),
            *(
                Arm(name, "fgc2f_udiff", (setting,))
                for name, setting in (
                    ("no guide", "model.guide=none"),
                    ("single stage", "model.guide=unfiltered"),
                    ("low only", "model.guide=low"),
                    ("high only", "model.guide=high"),
                    ("swapped", "model.guide=swapped"),
                    ("fixed source", "model.selection=fixed"),
                    ("no curriculum", "model.curriculum=false"),
                    ("T 50", "model.timesteps=50"),
                    ("T 100", "model.timesteps=100"),
                    ("T 500", "model.timesteps=500"),
                )
            ),
        ),
        checks=True,
    ),
    "synthesis-task": Study(
        "Is one network for all subsets as good as one trained for a single task, T1ce from the "
        "others?",
        (Arm("unified", "fgc2f_udiff"), Arm("t1ce alone", "fgc2f_udiff", ("model.missing=t1ce",))),
        hide=("t1ce",),
    ),
    "domain-generalisation": Study(
        "Trained on T2 alone, how well do networks segment the other modalities, and what do "
        "intensity domains (Bézier), Fourier convolutions (VFFC) and gradient reversal (GRL) "
        "add? +vffc and +grl each stand on +bezier, full on both.",
        (
            Arm("segresnet", "segresnet"),
            Arm("unet3d-stacked", "unet3d", ("modalities=t1,t1ce,t2,flair",)),
            Arm("unet3d", "unet3d"),
            Arm("+bezier", "segresnet_bezier"),
            Arm("+vffc", "segresnet_vffc"),
            Arm("+grl", "segresnet_grl"),
            Arm("full", "segresnet_full"),
            # one at a time: a network of one channel, as the others
            Arm("t1ce+t2", "segresnet_bezier", ("modalities=t2,t1ce", "data.single_modality=true")),
        ),
        modalities=("t1", "t1ce", "t2", "flair"),
    ),
}
