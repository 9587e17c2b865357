"""`cpds priors`: families, names that are known to be good, what they take, and what lies in the local cache."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpds.terminal import print_result

SIZES = Path(__file__).parents[2] / "assets/priors.json"  # by scripts/prior_sizes.py
INDEX = "model_index.json"
HEAD = f"{'name':<45}{'family':<14}{'billions':>9}{'GiB':>7}{'8 bit':>7}{'4 bit':>7}{'offload':>9}  here  licence"


@dataclass(frozen=True)
class PriorsArgs:
    """List families of priors with names that are known to be good, their licences and what memory they take."""


def gib(row: dict[str, Any]) -> tuple[float, float, float, float]:
    """GiB of weights on the card: in half precision, quantized to 8 and 4 bits, and with group offload.

    The denoising network and the autoencoder. Group offload keeps a layer that runs, and the next, which is on its way.
    """
    network, vae = 2 * row["parameters"], 2 * row["vae"]
    sizes = (network, network / 2, network / 4, 4 * row["largest_layer"])
    one, two, three, four = ((size + vae) / 2**30 for size in sizes)
    return one, two, three, four


def cached() -> dict[str, str]:
    """The pipelines in the local cache of the hub, by name: the class that their index names."""
    from huggingface_hub import constants

    found = {}
    for index in sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{INDEX}")):
        try:
            kind = json.loads(index.read_text()).get("_class_name")
        except (OSError, ValueError, AttributeError):  # half a download
            continue
        found[index.parents[2].name.removeprefix("models--").replace("--", "/", 1)] = str(kind)
    return found


def lines(rows: list[dict[str, Any]], here: dict[str, str]) -> Iterator[str]:
    """What the command prints."""
    yield HEAD
    for row in rows:
        sizes = "".join(f"{size:>{width}.1f}" for size, width in zip(gib(row), (7, 7, 7, 9), strict=True))
        mark = "yes" if row["name"] in here else "no"
        gated = ", gated" if row["gated"] else ""
        note = f" ({row['note']})" if row["note"] else ""
        billions = f"{row['parameters'] / 1e9:>9.2f}"
        yield f"{row['name']:<45}{row['family']:<14}{billions}{sizes}  {mark:<4}  {row['licence']}{gated}{note}"
    largest = max(2 * row["text_encoders"] for row in rows) / 2**30
    yield "GiB: weights on the card in half precision, and with quantize or offload group; activations come on top."
    yield f"Text encoders, up to {largest:.0f} GiB, come for new prompts alone; where they do not fit, on the CPU."
    yield "gated: accept the licence on the model's page, then hf auth login. here: in the local cache."
    names, kinds = ({row[key] for row in rows} for key in ("name", "pipeline"))
    fitting = [f"{name} ({kind})" for name, kind in here.items() if kind in kinds and name not in names]
    yield f"Also in the local cache, of these families: {', '.join(fitting) or 'nothing'}"
    yield "Any pipeline of these families will do: a hub name, a folder in diffusers' layout,"
    yield "or, FLUX.2 and PixArt aside, one .safetensors file."


def run_priors() -> int:
    """Print the table."""
    for line in lines(json.loads(SIZES.read_text()), cached()):
        print_result(line)
    return 0
