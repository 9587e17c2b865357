"""The table of benchmarks.gpu, as Markdown."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import torch

from cpds.run_key import environment

COLUMNS = {
    "seconds": "s a step",
    "memory_gib": "GiB at most",
    "weights_gib": "GiB of weights",
    "tflop": "TFLOP a step",
    "tflop_per_second": "TFLOP/s",
    "peak_tflop_per_second": "of a matrix product",
    "share_of_peak": "share",
}


def markdown(rows: Sequence[dict[str, Any]], command: str, minutes: float) -> str:
    """Date, machine and command, then a row each: what benchmarks.gpu_step gives, or `left_out` with the reason."""
    device = torch.device(rows[0]["device"])
    machine = environment(device)
    versions = ", ".join(f"{k} {machine[k]}" for k in ("python", "torch", "diffusers", "transformers"))
    cuda = f", CUDA {torch.version.cuda}" if device.type == "cuda" else ""
    size = "Toy sizes, which say nothing of speed" if rows[0]["toy"] else "Full sizes"
    memory = "tensors on the card" if cuda else "this process from its start, all it has loaded included"
    lines = [
        "# A step of CPDS on a GPU" if cuda else "# A step of CPDS",
        "",
        f"{date.today()}, {machine['device']}; {versions}{cuda}. {size}, random weights, preset `cpds` on latents;",
        f"medians of {rows[0]['steps']} steps after the first three; at most {minutes:g} minutes for all rows.",
        "",
        f"    {command}",
        "",
        f"GiB at most: of {memory}; text encoders are not loaded. Weights: of the network and the autoencoder. TFLOP",
        "count matrix products and convolutions. Share: of the rate of a large matrix product in the same precision,",
        "measured in the same process (fp32 products without TF32; cuDNN's convolutions take it).",
        "",
        f"| prior | px | precision | edits at once | compiled | {' | '.join(COLUMNS.values())} |",
        "|---" * (5 + len(COLUMNS)) + "|",
    ]
    for row in rows:
        name = [
            row["model"],
            str(row.get("px", "")),
            row["dtype"],
            str(row["targets"]),
            "yes" if row["compile"] else "",
        ]
        figures = [row["left_out"]] if "left_out" in row else [f"{row[key]:.3g}" for key in COLUMNS]
        lines.append(f"| {' | '.join([*name, *figures, *[''] * (len(COLUMNS) - len(figures))])} |")
    return "\n".join(lines) + "\n"
