"""Teach a prior one subject from a few images: `cpds dreambooth` as a program, which accelerate can launch.

    python scripts/dreambooth.py --instances my_dog --prompt "a photo of sks dog" --class_prompt "a photo of a dog" \
        --prior stable-diffusion-v1-5/stable-diffusion-v1-5 --save_path runs/sks
    accelerate launch --num_processes 2 scripts/dreambooth.py ...          # the same on two GPUs
    cpds image --img_path my_dog/1.jpg --prompt "a photo of sks dog" --target_prompt "a photo of sks dog in snow" \
        --prior stable-diffusion-v1-5/stable-diffusion-v1-5 --lora runs/sks

The same in Python:

    from pathlib import Path
    from cpds import load_prior
    from cpds.personalize.config import DreamBoothConfig
    from cpds.personalize.run import dreambooth
    from cpds.priors.options import PriorOptions

    lora = dreambooth(Path("my_dog"), Path("runs/sks"), DreamBoothConfig(prompt="a photo of sks dog"))
    prior = load_prior(options=PriorOptions(lora=(str(lora),)))
"""

import sys

from cpds.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["dreambooth", *sys.argv[1:]]))
