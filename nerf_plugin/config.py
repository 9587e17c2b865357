"""The methods for `ns-train`: cpds and cpds-refine for nerfacto's scenes, cpds-splat and cpds-splat-refine for splats.

    ns-train nerfacto --data scene
    ns-train cpds --load-dir outputs/…/nerfstudio_models --pipeline.prompt "a cat" --pipeline.trg-prompt "a dog"
    ns-train cpds-refine --load-dir outputs/…/cpds/…/nerfstudio_models --pipeline.trg-prompt "a dog"

splatfacto-cpu trains the splats that cpds-splat edits on machines where splatfacto does not run.
"""

from typing import Any

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from cpds.presets import PDS_REFINE_NERF, PDS_REFINE_SPLATS
from nerf_plugin.checkpoints import allow_numpy_scalars
from nerf_plugin.pipeline import CpdsPipelineConfig
from nerf_plugin.presets import EDITING, FIELD, Rates, default_of, optimizers
from nerf_plugin.refinement import RefinePipelineConfig
from nerf_plugin.splatfacto import CpdsSplatModelConfig, SplatTrainerConfig
from nerf_plugin.trainer import CpdsTrainerConfig

allow_numpy_scalars()

# 3DGS (Kerbl 2023) as splatfacto has them
TRAINING: Rates = {
    "means": (1.6e-4, 1.6e-6),
    "features_dc": (2.5e-3, None),
    "features_rest": (1.25e-4, None),
    "opacities": (0.05, None),
    "scales": (0.005, None),
    "quats": (0.001, None),
}


PLAIN: dict[str, Any] = {  # there is nothing to evaluate an edit against while it trains
    "steps_per_eval_batch": 0,
    "steps_per_eval_image": 0,
    "steps_per_eval_all_images": 0,
    "mixed_precision": False,
    "viewer": ViewerConfig(num_rays_per_chunk=1 << 15),
    "vis": "viewer+tensorboard",
}


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


def trainer(name: str, steps: int, every: int, pipeline: object, rates: Rates) -> CpdsTrainerConfig:
    """A method that begins from a trained scene."""
    return CpdsTrainerConfig(
        method_name=name,
        max_num_iterations=steps,
        steps_per_save=every,
        pipeline=pipeline,  # pyright: ignore[reportArgumentType]
        optimizers=optimizers(rates),
        **PLAIN,
    )


def edits(name: str, datamanager: Any, model: Any) -> CpdsTrainerConfig:
    """A method that edits, with its default preset."""
    plain = default_of(name)
    pipeline = CpdsPipelineConfig(datamanager=datamanager, model=model, guidance=plain.guidance)
    return trainer(name, plain.steps, 100, pipeline, plain.rates)


cpds = MethodSpecification(
    edits("cpds", rays(1), NerfactoModelConfig()),
    "Edit a nerfacto scene by text: CPDS, PDS, CDS, DDS or SDS.",
)
cpds_refine = MethodSpecification(
    trainer(
        "cpds-refine",
        PDS_REFINE_NERF.iterations,
        500,
        RefinePipelineConfig(datamanager=rays(-1), model=NerfactoModelConfig()),
        FIELD,
    ),
    "Sharpen an edited nerfacto scene by SDEdit on its views.",
)
cpds_splat = MethodSpecification(
    edits("cpds-splat", pictures(), CpdsSplatModelConfig()),
    "Edit a splatfacto scene by text: CPDS, PDS, CDS, DDS or SDS.",
)
cpds_splat_refine = MethodSpecification(
    trainer(
        "cpds-splat-refine",
        PDS_REFINE_SPLATS.iterations,
        500,
        RefinePipelineConfig(datamanager=pictures(), model=CpdsSplatModelConfig()),
        EDITING,
    ),
    "Sharpen an edited splatfacto scene by SDEdit on its views.",
)
splatfacto_cpu = MethodSpecification(
    SplatTrainerConfig(
        method_name="splatfacto-cpu",
        max_num_iterations=2000,
        steps_per_save=1000,
        pipeline=VanillaPipelineConfig(datamanager=pictures(), model=CpdsSplatModelConfig(num_downscales=0)),
        optimizers=optimizers(TRAINING, 2000),
        **PLAIN,
    ),
    "Splatfacto for small scenes on any device: one gaussian for each point of the sparse cloud.",
)
