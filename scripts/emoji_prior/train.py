"""Train the embedded prior: a small text-conditional latent diffusion model of emoji icons, in diffusers' layout.

    python -m scripts.emoji_prior.train --out runs/prior                          # everything, resumes where it stopped
    python -m scripts.emoji_prior.train --out runs/prior --denoiser-steps 20000   # longer; may be changed on resume
    python -m scripts.emoji_prior.train --out runs/prior --export cpds/assets/prior
    python -m scripts.emoji_prior.train --out runs/next --start cpds/assets/prior # go on from others' weights
    accelerate launch --multi_gpu -m scripts.emoji_prior.train --out runs/prior   # the same on all GPUs of a machine

The learning rate warms up, stays, and falls to zero over the last steps: to end a run early, resume it with fewer.

Three stages, each with checkpoints in `out`: draw the images (pool.py), fit the autoencoder on random crops, fit
denoiser and text encoder together on the autoencoder's latents. bf16 autocast on CPU and GPU alike.
"""

import sys
from dataclasses import replace

from scripts.emoji_prior.autoencoder import encode_pool, train_autoencoder
from scripts.emoji_prior.checkpoints import load_trained
from scripts.emoji_prior.denoiser import train_denoiser
from scripts.emoji_prior.export import export, sizes_of
from scripts.emoji_prior.icons import concepts, load_icons
from scripts.emoji_prior.pool import draw_pool, image_weights, read_shares
from scripts.emoji_prior.processes import Processes
from scripts.emoji_prior.settings import TrainConfig
from scripts.program import run_program


def main(config: TrainConfig) -> None:
    shares = read_shares(config.shares)
    config.out.mkdir(parents=True, exist_ok=True)
    processes = Processes(config.device)
    config = replace(config, device=processes.device)
    with processes.state.main_process_first():  # it makes the files, the others read them
        icons = load_icons(list(concepts()))
        images, pool = draw_pool(config, icons)
    if processes.main:
        print(f"{len(images)} images of {len(set(icons.concept))} concepts", flush=True)
    vae = train_autoencoder(config, images)
    with processes.state.main_process_first():
        latents = encode_pool(config, vae, images)
    model, tokenizer, scheduler = train_denoiser(config, icons, latents, pool, image_weights(icons, pool, shares), vae)
    if config.export and processes.main:
        optimizer = {"adamw": "AdamW", "muon": "Muon"}[config.optimizer]
        facts = {"started from": load_trained(config.start).about} if config.start else {}
        facts |= {
            "parameters": sizes_of(model, vae),
            "autoencoder": f"{config.autoencoder_steps} steps of {config.autoencoder_batch} crops of 64 px"
            + (", decoder alone" if config.start and config.keep_encoder else ""),
            "denoiser": f"{config.denoiser_steps} steps of {config.batch}, {len(images)} images, "
            f"{optimizer} {config.lr}",
            "device": f"{config.device}, bf16",
        }
        if often := [concepts()[name][0] for name, share in shares.items() if share < 1]:
            facts["drawn up to four times as often"] = ", ".join(often)
        export(config.export, model, vae, tokenizer, scheduler, icons, facts)


if __name__ == "__main__":
    sys.exit(run_program(main, TrainConfig, __doc__))
