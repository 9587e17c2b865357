"""Nerfacto as it can be trained without a GPU: smaller, and with its hash encoding in C."""

from __future__ import annotations

from dataclasses import dataclass, field

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig

from nerf_plugin.hash_encoding import encode_in_c


@dataclass
class CpdsNerfactoModelConfig(NerfactoModelConfig):
    """Nerfacto's settings; by default of a size for scenes of some dozens of small views."""

    _target: type = field(default_factory=lambda: CpdsNerfactoModel)
    implementation: str = "torch"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_levels: int = 8
    max_res: int = 256
    log2_hashmap_size: int = 14
    hidden_dim: int = 32
    hidden_dim_color: int = 32
    num_proposal_samples_per_ray: tuple[int, ...] = (32, 16)
    num_nerf_samples_per_ray: int = 16
    average_init_density: float = 0.01
    use_appearance_embedding: bool = False
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))


class CpdsNerfactoModel(NerfactoModel):
    """Nerfacto, whose hash encoding is computed in C while it trains on a CPU."""

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        if self.config.camera_optimizer.mode == "off":  # which wants gradients in the points
            encode_in_c(self)  # here, where the device is known
        return super().get_training_callbacks(training_callback_attributes)
