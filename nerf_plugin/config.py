"""The methods for `ns-train`: cpds and cpds-refine for nerfacto's scenes, cpds-splat and cpds-splat-refine for splats.

    ns-train nerfacto --data scene --pipeline.model.use-appearance-embedding False
    ns-train cpds --load-dir outputs/…/nerfstudio_models --pipeline.prompt "a cat" --pipeline.trg-prompt "a dog"
    ns-train cpds-refine --load-dir outputs/…/cpds/…/nerfstudio_models --pipeline.trg-prompt "a dog"

splatfacto-cpu trains the splats that cpds-splat edits on machines where splatfacto does not run.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from cpds.presets import PDS_REFINE_NERF, PDS_REFINE_SPLATS, PRESETS
from nerf_plugin.checkpoints import allow_numpy_scalars
from nerf_plugin.pipeline import CpdsPipelineConfig
from nerf_plugin.refinement import RefinePipelineConfig
from nerf_plugin.splatfacto import CpdsSplatModelConfig, SplatTrainerConfig
from nerf_plugin.trainer import CpdsTrainerConfig

allow_numpy_scalars()

STEPS = 300  # of an edit; the papers' 30,000 are for priors and views of 512 px
# 3DGS (Kerbl 2023) as splatfacto has them
TRAINING = {
    "means": (1.6e-4, 1.6e-6),
    "features_dc": (2.5e-3, None),
    "features_rest": (1.25e-4, None),
    "opacities": (0.05, None),
    "scales": (0.005, None),
    "quats": (0.001, None),
}
# cpds-splats' (cpds/presets.py), for cameras within 1 of the origin, as nerfstudio places them
EDITING = {
    "means": (5e-4, 2.5e-5),
    "features_dc": (0.04, 2e-3),
    "features_rest": (2e-3, 1e-4),
    "opacities": (0.02, 1e-3),
    "scales": (3e-3, 1.5e-4),
    "quats": (1.5e-3, 7.5e-5),
}


PLAIN: dict[str, Any] = {  # there is nothing to evaluate an edit against while it trains
    "steps_per_eval_batch": 0,
    "steps_per_eval_image": 0,
    "steps_per_eval_all_images": 0,
    "mixed_precision": False,
    "viewer": ViewerConfig(num_rays_per_chunk=1 << 15),
    "vis": "viewer+tensorboard",
}


def adam(lr: float, lr_final: float | None, steps: int = 0) -> dict[str, object]:
    """Adam whose step size falls exponentially over `steps`; 0 is our trainer's word for the whole run."""
    scheduler = None if lr_final is None else ExponentialDecaySchedulerConfig(lr_final=lr_final, max_steps=steps)
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


def rays(sample_from: int) -> VanillaDataManagerConfig:
    """Training pictures for models that render rays; `sample_from` of them are held in memory, all for -1.

    They are drawn anew each time that rays are asked for: an edit never does, but ns-export does, and wants every view.
    """
    return VanillaDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(),
        train_num_rays_per_batch=4096,
        eval_num_rays_per_batch=4096,
        train_num_images_to_sample_from=sample_from,
        train_num_times_to_repeat_images=-1 if sample_from == -1 else 0,
    )


def pictures() -> FullImageDatamanagerConfig:
    """Training pictures for splats."""
    return FullImageDatamanagerConfig(
        dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
    )


def trainer(name: str, steps: int, every: int, pipeline: object, optimizers: dict[str, object]) -> CpdsTrainerConfig:
    """A method that begins from a trained scene."""
    return CpdsTrainerConfig(
        method_name=name,
        max_num_iterations=steps,
        steps_per_save=every,
        pipeline=pipeline,  # pyright: ignore[reportArgumentType]
        optimizers=optimizers,
        **PLAIN,
    )


def field_optimizers() -> dict[str, object]:
    """A step size for nerfacto's networks."""
    return {name: adam(3e-3, 3e-4) for name in ("proposal_networks", "fields")}


def splat_optimizers(rates: Mapping[str, tuple[float, float | None]], steps: int = 0) -> dict[str, object]:
    """A step size for each kind of number."""
    return {name: adam(lr, final, steps) for name, (lr, final) in rates.items()}


cpds = MethodSpecification(
    trainer(
        "cpds",
        STEPS,
        100,
        CpdsPipelineConfig(
            datamanager=rays(1),
            model=NerfactoModelConfig(),
            guidance=replace(PRESETS["cpds-splats"].guidance, w_anchor=1.5),  # a field moves less than gaussians do
        ),
        field_optimizers(),
    ),
    "Edit a nerfacto scene by text: CPDS, PDS, CDS, DDS or SDS.",
)
cpds_refine = MethodSpecification(
    trainer(
        "cpds-refine",
        PDS_REFINE_NERF.iterations,
        500,
        RefinePipelineConfig(datamanager=rays(-1), model=NerfactoModelConfig()),
        field_optimizers(),
    ),
    "Sharpen an edited nerfacto scene by SDEdit on its views.",
)
cpds_splat = MethodSpecification(
    trainer(
        "cpds-splat",
        STEPS,
        100,
        CpdsPipelineConfig(datamanager=pictures(), model=CpdsSplatModelConfig()),
        splat_optimizers(EDITING),
    ),
    "Edit a splatfacto scene by text: CPDS, PDS, CDS, DDS or SDS.",
)
cpds_splat_refine = MethodSpecification(
    trainer(
        "cpds-splat-refine",
        PDS_REFINE_SPLATS.iterations,
        500,
        RefinePipelineConfig(datamanager=pictures(), model=CpdsSplatModelConfig()),
        splat_optimizers(EDITING),
    ),
    "Sharpen an edited splatfacto scene by SDEdit on its views.",
)
splatfacto_cpu = MethodSpecification(
    SplatTrainerConfig(
        method_name="splatfacto-cpu",
        max_num_iterations=2000,
        steps_per_save=1000,
        pipeline=VanillaPipelineConfig(datamanager=pictures(), model=CpdsSplatModelConfig(num_downscales=0)),
        optimizers=splat_optimizers(TRAINING, 2000),
        **PLAIN,
    ),
    "Splatfacto for small scenes on any device: one gaussian for each point of the sparse cloud.",
)
