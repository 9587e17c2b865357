"""Edit a Gaussian-splat scene from the command line: `cpds splats` under a script's name.

    python -m scripts.toy_scene --out scenes/cat --splats 2000
    python scripts/edit_splats.py scenes/cat/scene.ply --cameras scenes/cat \
        --prompt "a cat face on a blue background" --trg_prompt "a fox face on a blue background" --save_path out
    python scripts/edit_splats.py point_cloud.ply --cameras cameras.json --prompt "a bear" --trg_prompt "a panda" \
        --prior stable-diffusion-v1-5/stable-diffusion-v1-5

The same in Python:

    from cpds import edit, load_prior
    from representations.splats.scene import SplatScene

    prior = load_prior()
    scene = SplatScene.open("scenes/cat/scene.ply", "scenes/cat", prior)
    edit(scene, prior, "a cat face on a blue background", "a fox face on a blue background")
    scene.save("fox.ply")
"""

import sys

from cpds.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["splats", *sys.argv[1:]]))
