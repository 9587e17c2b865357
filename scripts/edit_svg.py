"""Edit an SVG from the command line: `cpds svg` under a script's name.

    python scripts/edit_svg.py --svg_path cat.svg --prompt "a cat face" --trg_prompt "a dog face" --save_path out
    python scripts/edit_svg.py --svg_path icons --prompt "a cat" --trg_prompt "a dog" --style iconography \
        --prior stable-diffusion-v1-5/stable-diffusion-v1-5 --preset pds-svg-paper

The same in Python:

    from cpds import edit, load_prior
    from svg.image import SvgImage

    prior = load_prior()
    image = SvgImage.open("cat.svg", prior)
    edit(image, prior, "a cat face", "a dog face")
    image.save("dog.svg")
"""

import sys

from cpds.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["svg", *sys.argv[1:]]))
