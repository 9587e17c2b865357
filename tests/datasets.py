"""A small data set of noise images, for the tests of evaluations."""

import json
from pathlib import Path
from typing import Any

from conftest import randn
from PIL import Image

from cpds.images import png, to_pil


def make_dataset(folder: Path) -> Path:
    """Five cases of two sizes, with masks; the first three have a ground truth."""
    folder.mkdir()
    lines = []
    for i in range(5):
        size = (32, 32) if i < 3 else (48, 32)
        for j, name in enumerate(("source", "ground_truth")):
            image = randn(10 * i + j, 1, 3, size[1], size[0]).sigmoid()
            (folder / f"{name}-{i}.png").write_bytes(png(to_pil(image)))
        mask = Image.new("L", size)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        mask.save(folder / f"mask-{i}.png")
        row: dict[str, Any] = {"id": f"c{i}", "source": f"source-{i}.png", "mask": f"mask-{i}.png"}
        row |= {"prompt": "a cat", "target_prompt": f"dog {i}", "tags": ["even" if i % 2 == 0 else "odd"]}
        if i < 3:
            row["ground_truth"] = f"ground_truth-{i}.png"
        lines.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder
