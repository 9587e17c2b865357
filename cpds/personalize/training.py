"""The training loop of a personalization: batches, optimizer, checkpoints and sample sheets."""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from cpds.callbacks import StopBetweenSteps
from cpds.errors import InputError
from cpds.images import png
from cpds.personalize.config import DreamBoothConfig
from cpds.personalize.loss import Subject, total_loss
from cpds.personalize.pictures import noise_like, sampled, sheet
from cpds.personalize.result import CHECKPOINT, load_checkpoint, save_checkpoint, save_result
from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.runs import RunFolder
from cpds.schedule import NoiseSchedule
from cpds.session import EditStopped
from cpds.types import Latents, Timesteps

SAMPLES = "samples"  # folder of the sheets
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Batches:
    """Instances' and class images' latents, from which every step draws by its own seed."""

    config: DreamBoothConfig
    instances: Latents
    classes: Float[Tensor, "n c h w"] | None = None

    def draw(self, step: int, rank: int, ranks: int, schedule: NoiseSchedule) -> tuple[Latents, Latents, Timesteps]:
        """Latents, noise and timesteps of one batch: `config.batch` instances, then as many class images.

        `step` counts a device's batches. Instances go round in a new order each time, class images are drawn; of a
        flow timesteps are uniform before its shift.
        """
        count = self.config.batch
        generator = torch.Generator().manual_seed((self.config.seed << 31) + step * ranks + rank)
        z = torch.cat([self._instance((step * ranks + rank) * count + i) for i in range(count)])
        if self.classes is not None:
            chosen = torch.randint(len(self.classes), (count,), generator=generator)
            z = torch.cat([z, self.classes[chosen]])
        eps = torch.randn(z.shape, generator=generator)
        t = torch.rand(len(z), generator=generator, dtype=torch.float64) * len(schedule)
        return z, eps, t.long() if schedule.shift is None else t - 1

    def _instance(self, i: int) -> Latents:
        round_, place = divmod(i, len(self.instances))
        order = torch.randperm(len(self.instances), generator=torch.Generator().manual_seed(round_))
        return self.instances[order[place : place + 1]]


class Training:
    """One run on this process's device; what is written is written by the main process alone."""

    def __init__(self, prior: DiffusersPrior, batches: Batches, accelerator: Accelerator, folder: RunFolder) -> None:
        self.prior, self.batches, self.accelerator, self.folder = prior, batches, accelerator, folder
        self.config = batches.config
        self.subject = Subject(prior, self.config)
        prompts = [self.config.prompt] * self.config.batch
        self.prompts = prompts + [self.config.class_prompt or ""] * (len(prompts) if batches.classes is not None else 0)
        self.parameters = list(self.subject.trained.values())
        self.optimizer = torch.optim.AdamW(self.parameters, self.config.learning_rate, weight_decay=0.01)
        self.scaler = torch.amp.GradScaler(prior.device.type, enabled=self.config.mixed_precision == "fp16")

    def run(self, *, resume: bool = False) -> None:
        """Train to the last step and write the result.

        Raises EditStopped, after a checkpoint, for Ctrl-C or SIGTERM where there is one process: several would have to
        agree on the step, and keep their last checkpoint.
        """
        stopper = StopBetweenSteps()
        if self.accelerator.num_processes == 1:
            stopper.attend()
        try:
            self._run(stopper, resume)
        finally:
            stopper.restore()

    def _run(self, stopper: StopBetweenSteps, resume: bool) -> None:
        file, first = self.folder.path / CHECKPOINT, 0
        if resume and file.is_file():
            first = load_checkpoint(file, self.subject, self.optimizer, self.scaler)
        main = self.accelerator.is_main_process
        if main:
            self.folder.cut_metrics(first)
        with torch.no_grad():  # known for good, unless text encoders are trained
            read = None if self.subject.text else dict(self.subject.read(self.prompts).tensors)
        copy = self.accelerator.prepare(self.subject)
        steps, every = self.config.steps, self.config.checkpoint_every
        for step in tqdm(range(first + 1, steps + 1), "DreamBooth", steps, initial=first, disable=not main):
            loss = self.step(step, copy, read)
            asked = stopper.asked  # what is asked for later waits for the next step, which is then kept
            if main:
                self.folder.log({"step": step, "loss": loss})
                if step % every == 0 or step == steps or asked:
                    save_checkpoint(file, self.subject, self.optimizer, self.scaler, step)
                if self.config.samples and (step % self.config.sample_every == 0 or step == steps):
                    self.write_sheet(step)
            if asked and step < steps:
                raise EditStopped(step, stopper.exit_code, self.folder.path)
        if main:
            save_result(self.folder.path, self.subject)
        self.accelerator.wait_for_everyone()

    def autocast(self) -> torch.autocast:
        """Computation in `config.mixed_precision`."""
        dtype = AUTOCAST.get(self.config.mixed_precision)
        return torch.autocast(self.prior.device.type, dtype, enabled=dtype is not None)

    def step(self, step: int, copy: nn.Module, read: dict | None) -> float:
        """One optimizer step; its loss on this device. InputError where it is no number."""
        count, total = self.config.gradient_accumulation, 0.0
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        self.subject.train()
        for part in range(count):
            batch = self.batches.draw((step - 1) * count + part, rank, ranks, self.prior.schedule)
            z, eps, t = (x.to(self.prior.device) if x.is_floating_point() and x.ndim > 1 else x for x in batch)
            with self.accelerator.no_sync(copy) if part + 1 < count else nullcontext():
                with self.autocast():
                    errors = copy(z, eps, t, self.prompts, read)
                loss = total_loss(errors, self.config.batch, self.config.prior_weight) / count
                self.scaler.scale(loss).backward()
            total += loss.item()
        if not math.isfinite(total):
            raise InputError(f"the loss is {total} at step {step}: lower lr, or take another mixed_precision (bf16)")
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return total

    @torch.no_grad()
    def write_sheet(self, step: int) -> None:
        """Samples of the prompt, of the same noise each time."""
        self.subject.eval()
        like = self.batches.instances
        noise = torch.cat([noise_like(like, seed) for seed in range(self.config.samples)])
        with self.autocast():
            prompt, null = (self.subject.read([text]) for text in (self.config.prompt, ""))
            images = sampled(self.prior, noise, prompt, null, self.config.guidance_scale)
        self.folder.write(f"{SAMPLES}/{step:06d}.png", png(sheet(images)))
