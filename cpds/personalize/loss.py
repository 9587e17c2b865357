"""DreamBooth's loss, and what is trained by it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpds.errors import InputError
from cpds.personalize.config import DreamBoothConfig
from cpds.priors.base import Conditioning
from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.types import Latents, Timesteps

# of every family's attention, as diffusers' programs have them; and of CLIP's
NETWORK_TARGETS, TEXT_TARGETS = ("to_q", "to_k", "to_v", "to_out.0"), ("q_proj", "k_proj", "v_proj", "out_proj")


def require_trainable(prior: DiffusersPrior, config: DreamBoothConfig) -> None:
    """InputError for a family that is not trained here, or whose text encoders are not."""
    kind = type(prior.pipeline).__name__
    if not hasattr(prior.pipeline, "save_lora_weights"):
        raise InputError(f"DreamBooth is not for a {kind}, which takes no LoRA: take a prior of another family")
    if config.train_text_encoder and prior.network != "unet":
        raise InputError(f"train_text_encoder is for Stable Diffusion 1.x, 2.x and XL, not for a {kind}")


class Subject(nn.Module):
    """The trained networks of a prior, and the error of their predictions: what a copy of runs on every device."""

    def __init__(self, prior: DiffusersPrior, config: DreamBoothConfig) -> None:
        """Makes LoRA layers, seeded, or all weights trainable, of a prior for which `require_trainable` holds."""
        super().__init__()
        self.prior, self.config, self.net = prior, config, prior.net
        pipeline = prior.pipeline
        text = [name for name in pipeline.components if name.startswith("text_encoder")]
        self.text = nn.ModuleDict({name: getattr(pipeline, name) for name in text if config.train_text_encoder})
        with torch.random.fork_rng(devices=[]):  # peft draws from torch's own generator
            torch.manual_seed(config.seed)
            for module in (self.net, *self.text.values()):
                make_trainable(module, config, NETWORK_TARGETS if module is self.net else TEXT_TARGETS)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that change, by name."""
        return {name: x for name, x in self.named_parameters() if x.requires_grad}

    def read(self, prompts: Sequence[str]) -> Conditioning:
        """Encoded prompts; differentiable in text encoders that are trained, else kept."""
        if not self.text:
            return self.prior.embed(prompts)
        return Conditioning.cat([self.prior.encode_prompt(self.prior.pipeline, prompt) for prompt in prompts])

    def forward(
        self, z: Latents, eps: Latents, t: Timesteps, prompts: Sequence[str], read: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, " b"]:
        """Mean squared error of each prediction, in the parameterization of the network.

        `read`: the prompts' encodings, where they are known.
        """
        schedule = self.prior.schedule
        conditioning = self.read(prompts) if read is None else Conditioning(read)
        x_t = schedule.add_noise(z, eps, t)
        output = self.prior.predict(x_t.to(self.net.dtype), t, conditioning)
        return (output.float() - schedule.target(z, eps, t)).square().mean((1, 2, 3))


def make_trainable(module: Any, config: DreamBoothConfig, targets: Sequence[str]) -> None:
    """All weights of a network in float32, or LoRA layers in float32 beside frozen ones."""
    from peft import LoraConfig

    if config.full:
        module.requires_grad_(True).float()
    else:
        lora = LoraConfig(
            r=config.rank, lora_alpha=config.rank, init_lora_weights="gaussian", target_modules=[*targets]
        )
        module.add_adapter(lora)
        for x in module.parameters():
            x.data = x.data.float() if x.requires_grad else x.data
    if config.gradient_checkpointing:
        of_transformers = hasattr(module, "gradient_checkpointing_enable")
        getattr(module, "gradient_checkpointing_enable" if of_transformers else "enable_gradient_checkpointing")()


def total_loss(errors: Float[Tensor, " b"], instances: int, prior_weight: float) -> Float[Tensor, ""]:
    """Mean over the instances, and by its weight that over the class images, which follow them (Ruiz 2023, Eq. 2)."""
    loss = errors[:instances].mean()
    return loss if len(errors) == instances else loss + prior_weight * errors[instances:].mean()
