"""Make a small 3D scene from an icon: a relief of it, seen from all around its front, as a nerfstudio data set.

    python -m scripts.toy_scene --out scenes/cat                           # 30 views to train on, 6 held out
    python -m scripts.toy_scene --out scenes/cat --target dog-face         # and an edit's ground truth, target/
    python -m scripts.toy_scene --out scenes/cat --splats 2000             # and scene.ply, gaussian splats of it
    python -m scripts.toy_scene --out scenes/mine --image mine.png       # your own icon; without npm

What is there then: images/, masks/ (white: the icon), transforms.json, points.ply (a sparse coloured point cloud, from
which splatfacto starts) and scene.json (what was drawn, and a caption for prompts). In nerfstudio:

    ns-train nerfacto --data scenes/cat

Icons come from the packages of scripts/emoji_prior, downloaded once with npm; each has its licence in scene.json.
"""

import sys
from collections.abc import Sequence

from cpds.threads import one_thread
from scripts.program import run_program
from scripts.toy_scene.config import SceneConfig
from scripts.toy_scene.draw import make_scene


def main(argv: Sequence[str] | None = None) -> int:
    """2 and one sentence for anything that the user can fix."""
    one_thread()
    return run_program(make_scene, SceneConfig, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
