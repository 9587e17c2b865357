"""Settings by name: every published one (METHODS: table of hyper-parameters), and ours, tuned on the embedded prior."""

from dataclasses import dataclass, replace

from cpds.config import EditConfig, GuidanceConfig

# Delta Denoising Score (Hertz 2023) as CDS's code runs it; the learning rate is 0.1 x 2000 / (h w)
DDS_PAPER = EditConfig(GuidanceConfig("dds"), 200, "sgd", 0.1, lr_scaling="area")
# Contrastive Denoising Score (Nam 2024); the contrastive loss is not multiplied by 2000 / (h w)
CDS_PAPER = replace(DDS_PAPER, guidance=GuidanceConfig("cds", w_cut=3.0))
# the public code of CPDS: CDS's numbers at eight times the learning rate, and stride 1, where psi is 0
CPDS_REFERENCE = replace(DDS_PAPER, guidance=GuidanceConfig("cpds", w_cut=3.0, stride=1), lr=0.8)
# Posterior Distillation Sampling (Koo 2024) on images
PDS_PAPER = EditConfig(GuidanceConfig("pds", default_guidance=(50.0, None), t_min=0.02, t_max=0.98), 500, "adamw", 0.1)
# … on NeRFs
PDS_NERF = replace(
    PDS_PAPER,
    guidance=replace(PDS_PAPER.guidance, default_guidance=(100.0, None)),
    num_inference_steps=30_000,
    optimizer="adam",
    lr=1e-2,
    lr_decay=0.1,
)
# … on Gaussian splats: a learning rate for each parameter group
PDS_SPLATS = replace(
    PDS_NERF,
    lr=1e-3,
    lr_decay=1.0,
    group_lrs={"xyz": 1.6e-4, "color": 2.5e-3, "opacity": 0.05, "scale": 0.005, "rotation": 1e-3},
)
# … on SVG, with points in pixels of a 512-px canvas
PDS_SVG = replace(
    PDS_NERF,
    guidance=replace(PDS_NERF.guidance, t_min=0.1),
    num_inference_steps=1000,
    lr=0.01,
    lr_decay=1.0,
    group_lrs={"points": 0.8},
)
# Localized Update Score Distillation (Chinchuthakun 2025): the direction's spread falls from 0.149 to 0.011, times
# 2000 / (h w); exponentially here, by a sigmoid there, and weak steps are left out instead of drawn anew
LUSD_PAPER = EditConfig(
    GuidanceConfig("lusd", normalize_gradient=True, localize=True, min_direction=0.01, t_max=0.948),
    300,
    "sgd",
    lr=0.149,
    lr_scaling="area",
    lr_decay=0.074,
)
# down the schedule of Stable Diffusion 3 with a sampler's own steps: FlowEdit (Kulikov 2024)
FLOWEDIT_PAPER = EditConfig(
    GuidanceConfig("flowedit", default_guidance=(13.5, 3.5), timesteps="descending", t_min=0.002, t_max=0.653),
    33,
    "sgd",
    lr=1.0,
)
# … FlowAlign (Kim 2025), which begins at pure noise: as near to that as a prediction of clean latents can be
FLOWALIGN_PAPER = replace(
    FLOWEDIT_PAPER,
    guidance=GuidanceConfig("flowalign", default_guidance=(13.5, None), timesteps="descending", t_min=0.03, t_max=0.99),
)
# … Delta Velocity Rectified Flow (Beaudouin 2025), with FlowEdit's steps
DVRF_PAPER = replace(
    FLOWEDIT_PAPER,
    guidance=replace(FLOWEDIT_PAPER.guidance, method="dvrf", default_guidance=(16.5, 6.0), t_min=0.02, t_max=0.99),
    num_inference_steps=50,
)

# ours: gradients of unit size, learning rates that fall from what each parameter group says; what else was tried is
# in benchmarks/README.md
DDS = EditConfig(
    GuidanceConfig("dds", default_guidance=(5.0, None), normalize_gradient=True),
    80,
    "sgd",
    lr_decay=0.125,
)
SDS = replace(DDS, guidance=replace(DDS.guidance, method="sds"))
CDS = replace(DDS, guidance=replace(DDS.guidance, method="cds", w_cut=0.5, n_patches=64))
PDS = replace(DDS, guidance=replace(DDS.guidance, method="pds", w_identity=0.03))
# guidance rises with the noise; the contrastive loss holds what should stay, and may be strong there; few steps, whose
# timesteps must not be left to chance
CPDS = replace(
    PDS,
    guidance=replace(
        PDS.guidance,
        method="cpds",
        default_guidance=(7.5, None),
        default_schedule="rising",
        w_cut=2.0,
        n_patches=1024,
        patch_share=0.25,
        patch_selector="relevance",
        timesteps="low-discrepancy",
    ),
    num_inference_steps=20,
    lr=0.2,
    lr_decay=0.2,
    polish=0.5,
)

# stronger: for what follows an edited image, and for tables
CPDS_LONG = replace(
    CPDS,
    guidance=replace(CPDS.guidance, timesteps="uniform"),
    num_inference_steps=40,
    lr=0.16,
    lr_decay=0.125,
)

# scores of the edited half alone
CSD = replace(DDS, guidance=replace(DDS.guidance, method="csd"))
LUSD = replace(DDS, guidance=replace(DDS.guidance, method="lusd", localize=True))
# down the schedule, with less guidance than in the papers, as these priors follow prompts by themselves
FLOWEDIT = replace(
    FLOWEDIT_PAPER,
    guidance=replace(FLOWEDIT_PAPER.guidance, default_guidance=(5.5, 1.5), t_min=0.03, t_max=0.8),
    num_inference_steps=28,
)
DVRF = replace(FLOWEDIT, guidance=replace(FLOWEDIT.guidance, method="dvrf"))
FLOWALIGN = replace(
    FLOWEDIT,
    guidance=replace(
        FLOWEDIT.guidance, method="flowalign", default_guidance=(5.5, None), method_options={"zeta": 0.28}
    ),
)
CHORDEDIT = EditConfig(GuidanceConfig("chordedit", t_min=0.9, t_max=0.9, timesteps="descending"), 1, "sgd", lr=1.0)

METHODS = {
    "cpds": CPDS,
    "pds": PDS,
    "cds": CDS,
    "dds": DDS,
    "sds": SDS,
    "csd": CSD,
    "lusd": LUSD,
    "flowedit": FLOWEDIT,
    "dvrf": DVRF,
    "flowalign": FLOWALIGN,
}
# of what is rendered, for which neither rising guidance nor other patches have been tuned
LEARNED = replace(CDS.guidance, method="cpds", patch_selector="learned", selector_every=4)
RENDERED = METHODS | {"cpds": replace(CDS, guidance=LEARNED)}


def on_renderer(preset: EditConfig) -> EditConfig:
    """A preset's method for anything that is rendered: Adam, at the learning rates of the parameter groups."""
    scales = (7.5, preset.guidance.default_guidance[1])
    guidance = replace(preset.guidance, default_guidance=scales, w_identity=0.1, w_cut=1.0)
    return replace(preset, guidance=guidance, num_inference_steps=150, optimizer="adam", lr=None, lr_decay=0.25)


def on_svg(preset: EditConfig) -> EditConfig:
    """A preset's method for drawings, which follow an edited image; where the prompts are alike, nothing moves."""
    scale, source = preset.guidance.default_guidance
    guidance = replace(preset.guidance, default_guidance=(1.5 * scale, source), min_direction=1e-3)
    rate = 0.16 if guidance.normalize_gradient else 1.0
    return EditConfig(guidance, 110, "adam", lr_decay=0.25, redraw_steps=40, redraw_lr=rate)


def on_splats(preset: EditConfig) -> EditConfig:
    """A preset's method for Gaussian splats: the proximity loss holds the background."""
    rendered = on_renderer(preset)
    guidance = replace(rendered.guidance, w_identity=0.03, w_proximity=5.0)
    return replace(rendered, guidance=guidance, num_inference_steps=300, lr_decay=0.05)


PRESETS = {
    **METHODS,
    "cpds-long": CPDS_LONG,
    "chordedit": CHORDEDIT,
    "dds-paper": DDS_PAPER,
    "cds-paper": CDS_PAPER,
    "cpds-reference": CPDS_REFERENCE,
    "pds-paper": PDS_PAPER,
    "pds-nerf-paper": PDS_NERF,
    "pds-splats-paper": PDS_SPLATS,
    "pds-svg-paper": PDS_SVG,
    "lusd-paper": LUSD_PAPER,
    "flowedit-paper": FLOWEDIT_PAPER,
    "flowalign-paper": FLOWALIGN_PAPER,
    "dvrf-paper": DVRF_PAPER,
    **{f"{name}-render": on_renderer(preset) for name, preset in RENDERED.items()},
    **{f"{name}-svg": on_svg(preset) for name, preset in (METHODS | {"cpds": CPDS_LONG}).items()},
    **{f"{name}-splats": on_splats(preset) for name, preset in RENDERED.items()},
}

# what a user should know before taking a preset
NOTES = {
    "cpds-long": "twice as many steps, and stronger: what scenes and drawings follow is edited so",
    "chordedit": "one step, for priors of few steps (Turbo, schnell); others leave a blur",
    "cpds-reference": "what the public code of CPDS runs, faults included: it takes the target's latent for the "
    "source's, so that psi's pull to the source cancels, and its selector never learns (patches here: random)",
}


@dataclass(frozen=True)
class RefinementSettings:
    """SDEdit refinement of an edited scene, after PDS (Koo 2024)."""

    iterations: int
    denoising_steps: int = 20
    guidance_scale: float = 15.0
    skip: tuple[float, float] = (0.8, 0.9)  # fraction of the denoising that is skipped, drawn from this range
    every: int = 10  # training steps between two replaced views


PDS_REFINE_NERF = RefinementSettings(iterations=15_000)
PDS_REFINE_SPLATS = RefinementSettings(iterations=30_000)


FLOWS = ("lusd-paper", "flowedit-paper", "flowalign-paper", "dvrf-paper")

# the presets that fit what a command edits; --method alone takes the first that has it
PRESETS_FOR = {
    "image": (*METHODS, "cpds-long", "chordedit", "dds-paper", "cds-paper", "cpds-reference", "pds-paper", *FLOWS),
    "svg": (*(f"{name}-svg" for name in METHODS), "pds-svg-paper"),
    "splats": (*(f"{name}-splats" for name in METHODS), "pds-splats-paper"),
    "nerf": ("pds-nerf-paper",),
}
