"""Edit an image from the command line: `cpds image` under the name that the papers' code gives it.

    python scripts/edit_image.py --img_path cat.png --prompt "a cat face" --trg_prompt "a dog face" --save_path out
    python scripts/edit_image.py --img_path photos --prompt "a photo of a cat" --trg_prompt "a photo of a dog" \
        --prior stable-diffusion-v1-5/stable-diffusion-v1-5 --method cds --w_cut 3 --patch_size 1 2

The same in Python:

    from cpds import edit, load_prior
    from representations.latent import LatentImage

    prior = load_prior()
    image = LatentImage.open("cat.png", prior)
    edit(image, prior, "a cat face", "a dog face")
    image.save("dog.png")
"""

import sys

from cpds.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["image", *sys.argv[1:]]))
