"""The methods for `ns-train`: cpds and cpds-refine for nerfacto's scenes, cpds-splat and cpds-splat-refine for splats.

    ns-train nerfacto --data scene
    ns-train cpds --load-dir outputs/…/nerfstudio_models --pipeline.prompt "a cat" --pipeline.target-prompt "a dog"
    ns-train cpds-refine --load-dir outputs/…/cpds/…/nerfstudio_models --pipeline.target-prompt "a dog"

nerfacto-cpu and splatfacto-cpu train such scenes on machines without a GPU.
"""

from typing import Any

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from cpds.presets import PDS_REFINE_NERF, PDS_REFINE_SPLATS
from nerf_plugin.checkpoints import allow_numpy_scalars
from nerf_plugin.nerfacto import CpdsNerfactoModelConfig
from nerf_plugin.pipeline import CpdsPipelineConfig
from nerf_plugin.presets import (
    FIELD_RATES,
    FIELD_TRAINING_RATES,
    SPLAT_RATES,
    SPLAT_TRAINING_RATES,
    LearningRates,
    default_preset,
    optimizers,
)
from nerf_plugin.refinement import RefinePipelineConfig
from nerf_plugin.splatfacto import CpdsSplatModelConfig, SplatTrainerConfig
from nerf_plugin.trainer import CpdsTrainerConfig

allow_numpy_scalars()

SHARED: dict[str, Any] = {  # there is nothing to evaluate an edit against while it trains
    "steps_per_eval_batch": 0,
    "steps_per_eval_image": 0,
    "steps_per_eval_all_images": 0,
    "mixed_precision": False,
    "viewer": ViewerConfig(num_rays_per_chunk=1 << 15),
    "vis": "viewer+tensorboard",
}


def ray_data(sample_from: int, rays: int = 4096) -> VanillaDataManagerConfig:
    """Training images for models that render rays; `sample_from` of them are held in memory, all for -1.

    They are sampled anew each time that rays are asked for: an edit never asks, but ns-export does, and wants every
    view.
    """
    return VanillaDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(),
        train_num_rays_per_batch=rays,
        eval_num_rays_per_batch=4096,
        train_num_images_to_sample_from=sample_from,
        train_num_times_to_repeat_images=-1 if sample_from == -1 else 0,
    )


def splat_data() -> FullImageDatamanagerConfig:
    """Training images for splats."""
    return FullImageDatamanagerConfig(
        dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
    )


def trainer(name: str, steps: int, save_every: int, pipeline: object, rates: LearningRates) -> CpdsTrainerConfig:
    """A method that begins from a trained scene."""
    return CpdsTrainerConfig(
        method_name=name,
        max_num_iterations=steps,
        steps_per_save=save_every,
        pipeline=pipeline,  # pyright: ignore[reportArgumentType]
        optimizers=optimizers(rates),
        **SHARED,
    )


def edit_method(name: str, datamanager: Any, model: Any) -> CpdsTrainerConfig:
    """A method that edits, with its default preset."""
    preset = default_preset(name)
    pipeline = CpdsPipelineConfig(datamanager=datamanager, model=model, guidance=preset.guidance)
    return trainer(name, preset.steps, 100, pipeline, preset.rates)


def refine_method(name: str, datamanager: Any, model: Any, steps: int, rates: LearningRates) -> CpdsTrainerConfig:
    """A method that refines, for as many steps as the paper's."""
    return trainer(name, steps, 500, RefinePipelineConfig(datamanager=datamanager, model=model), rates)


cpds = MethodSpecification(
    edit_method("cpds", ray_data(1), NerfactoModelConfig()),
    "Edit a nerfacto scene by text: CPDS, PDS, CDS, DDS or SDS.",
)
cpds_refine = MethodSpecification(
    refine_method("cpds-refine", ray_data(-1), NerfactoModelConfig(), PDS_REFINE_NERF.iterations, FIELD_RATES),
    "Sharpen an edited nerfacto scene by SDEdit on its views.",
)
cpds_splat = MethodSpecification(
    edit_method("cpds-splat", splat_data(), CpdsSplatModelConfig()),
    "Edit a splatfacto scene by text: CPDS, PDS, CDS, DDS or SDS.",
)
cpds_splat_refine = MethodSpecification(
    refine_method("cpds-splat-refine", splat_data(), CpdsSplatModelConfig(), PDS_REFINE_SPLATS.iterations, SPLAT_RATES),
    "Sharpen an edited splatfacto scene by SDEdit on its views.",
)
nerfacto_cpu = MethodSpecification(
    TrainerConfig(
        method_name="nerfacto-cpu",
        max_num_iterations=1500,
        steps_per_save=500,
        pipeline=VanillaPipelineConfig(datamanager=ray_data(-1, 1024), model=CpdsNerfactoModelConfig()),
        optimizers=optimizers(FIELD_TRAINING_RATES, 200_000),
        **SHARED,
    ),
    "A small nerfacto for scenes of small views on any device.",
)
splatfacto_cpu = MethodSpecification(
    SplatTrainerConfig(
        method_name="splatfacto-cpu",
        max_num_iterations=2000,
        steps_per_save=1000,
        pipeline=VanillaPipelineConfig(datamanager=splat_data(), model=CpdsSplatModelConfig(num_downscales=0)),
        optimizers=optimizers(SPLAT_TRAINING_RATES, 2000),
        **SHARED,
    ),
    "Splatfacto for small scenes on any device: one gaussian for each point of the sparse cloud.",
)
