"""What an evaluation edits: emoji-edit (v1 or v2), a JSONL manifest of one's own, or the PIE-Bench layout.

A manifest has one JSON object a line; paths are relative to its folder:

    {"id": "cat-1", "source": "cat.png", "prompt": "a cat", "target_prompt": "a dog",
     "mask": "cat-mask.png", "ground_truth": "dog.png", "split": "test", "tags": ["animal"],
     "expect": {"concept": "dog-face"}, "crop": [0, 0, 64, 64]}

The first four are needed. `mask`: white may change; `ground_truth`: the image that the edit should give; `expect`: the
classes that the icon classifier should predict for the result; `crop`: left, top, right and bottom, in px of the
source, of the part that it is shown instead of the whole. All problems of a data set are reported at once, before any
work.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.config import require
from cpds.errors import InputError
from cpds.images import open_image
from cpds.masks import open_mask, read_mask
from cpds.types import Images

EMOJI_EDIT = Path(__file__).parents[2] / "benchmarks" / "emoji_edit"  # in a checkout: it is no part of the package
DATA_SETS = {"emoji-edit": EMOJI_EDIT, "emoji-edit-v2": EMOJI_EDIT.with_name("emoji_edit_v2")}  # by name
CLASSIFIER = "classifier.safetensors"  # in a data set's folder: weights of the icon classifier
NEEDED = ("id", "source", "prompt", "target_prompt")
FILES = ("source", "mask", "ground_truth")
COLUMNS = (*NEEDED, "mask", "ground_truth", "split", "tags", "expect", "crop")
CROP_MIN = 16  # px: less shows the classifier nothing


@dataclass(frozen=True)
class Case:
    """One edit to make, and what its result is compared with."""

    id: str
    source: Path
    prompt: str
    target_prompt: str
    mask: Path | tuple[int, ...] | None = None  # a file, or PIE-Bench's runs: start, length, start, length, ...
    ground_truth: Path | None = None
    split: str = "test"
    tags: tuple[str, ...] = ()
    expect: Mapping[str, str] = field(default_factory=dict)
    crop: tuple[int, ...] | None = None  # px: left, top, right, bottom of what the classifier is shown
    size: tuple[int, int] = (0, 0)  # px, width and height of the source as it is opened

    def digest(self) -> str:
        """Changes with anything that decides the edit or its metrics."""
        texts = [self.prompt, self.target_prompt, dict(self.expect), self.mask if isinstance(self.mask, tuple) else ()]
        if self.crop is not None:
            texts.append(self.crop)
        found = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
        for file in (self.source, self.mask, self.ground_truth):
            found.update(b"|" + (file.read_bytes() if isinstance(file, Path) else b""))
        return found.hexdigest()[:16]

    def open_mask(self, like: Images) -> Float[Tensor, "1 1 H W"] | None:
        """1 where the image `like` may change."""
        if isinstance(self.mask, tuple):
            return from_runs(self.mask, *like.shape[-2:])
        return None if self.mask is None else open_mask(self.mask, like).round()

    def cropped(self, image: Images) -> Float[Tensor, "b 3 _H _W"]:
        """What the classifier is shown of an image of the source's size."""
        left, top, right, bottom = self.crop or (0, 0, image.shape[-1], image.shape[-2])
        return image[..., top:bottom, left:right]

    def open_ground_truth(self) -> Images | None:
        """What the edit should give."""
        return None if self.ground_truth is None else open_image(self.ground_truth)


def from_runs(runs: tuple[int, ...], height: int, width: int) -> Float[Tensor, "1 1 H W"]:
    """A mask from PIE-Bench's run lengths, in row order; its outermost pixels always count as edited there."""
    mask = torch.zeros(height * width)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        mask[start : start + length] = 1
    mask = mask.view(1, 1, height, width)
    mask[..., [0, -1], :] = 1
    mask[..., :, [0, -1]] = 1
    return mask


def load_cases(where: str | Path, split: str | None = None) -> list[Case]:
    """The cases of 'emoji-edit' or 'emoji-edit-v2', or of a .jsonl file, a folder with one, or in PIE-Bench's layout.

    `split` keeps the cases of that split. Raises InputError with every problem found.
    """
    path = dataset_file(where)
    problems: list[str] = []
    read = read_pie if path.name == "mapping_file.json" else read_manifest
    cases = read(path, problems)
    cases = [case for case in cases if split in (None, case.split)]
    cases = check(cases, problems)
    if problems:
        raise InputError("\n  ".join([f"{path} cannot be used, fix these:", *problems]))
    if not cases:
        raise InputError(f"{path} holds no case" + (f" of split {split!r}: check its spelling" if split else ""))
    return cases


def dataset_file(where: str | Path) -> Path:
    """The file that lists a data set's cases; InputError where there is none."""
    path = DATA_SETS.get(str(where), Path(where))
    if str(where) in DATA_SETS and not path.is_dir():
        raise InputError(
            f"the data set {where} is not installed with the package: get the folder benchmarks/{path.name} of CPDS's "
            f"repository and give its path instead of {where}"
        )
    if os.path.isdir(path):  # False, unlike Path.is_dir, for a name too long
        found = [path / name for name in ("manifest.jsonl", "mapping_file.json") if (path / name).is_file()]
        if not found:
            raise InputError(f"{path} has neither manifest.jsonl nor mapping_file.json: name a data set's folder")
        path = found[0]
    if not os.path.isfile(path):
        raise InputError(
            f"there is no data set {where}: give {', '.join(DATA_SETS)}, a manifest.jsonl or a PIE-Bench folder"
        )
    return path


def classifier_file(where: str | Path) -> Path:
    """Weights of the icon classifier: in the data set's folder, else emoji-edit's; InputError where there are none."""
    found = [f for f in (dataset_file(where).with_name(CLASSIFIER), EMOJI_EDIT / CLASSIFIER) if f.is_file()]
    if not found:
        raise InputError(
            f"the cases say what classes to expect, but the icon classifier's weights are not there: put {CLASSIFIER} "
            "from the folder benchmarks/emoji_edit of CPDS's repository beside the manifest"
        )
    return found[0]


def select(cases: list[Case], tag: str | None = None, limit: int | None = None) -> list[Case]:
    """The cases with a tag; of these at most `limit`, spread evenly. InputError where none is left."""
    require(limit is None or limit >= 1, f"limit must be >= 1, got {limit}")
    tags = sorted({tag for case in cases for tag in case.tags})
    cases = [case for case in cases if tag is None or tag in case.tags]
    require(bool(cases), f"no case has the tag {tag!r}: there are {', '.join(tags) or 'none'}")
    count = min(limit or len(cases), len(cases))
    return [cases[i * len(cases) // count] for i in range(count)]


def read_manifest(path: Path, problems: list[str]) -> list[Case]:
    """A JSONL manifest; what is wrong with a line goes to `problems`."""
    cases: list[Case] = []
    for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            problems.append(f"line {number} is no JSON object")
            continue
        row = {column: value for column, value in row.items() if value is not None}
        wrong = [f"unknown column {c!r}" for c in row if c not in COLUMNS]
        wrong += [f"{c} must be a text that is not empty" for c in NEEDED if not is_text(row.get(c))]
        wrong += [f"{c} must be a text" for c in ("mask", "ground_truth", "split") if c in row and not is_text(row[c])]
        tags, expect, crop = row.get("tags", []), row.get("expect", {}), row.get("crop")
        if not (isinstance(tags, list) and all(map(is_text, tags))):
            wrong.append("tags must be a list of texts")
        if not (isinstance(expect, dict) and all(map(is_text, expect.values()))):
            wrong.append("expect must be an object of texts")
        if not (crop is None or (isinstance(crop, list) and len(crop) == 4 and all(type(x) is int for x in crop))):
            wrong.append("crop must be a list of 4 whole numbers: left, top, right, bottom")
        if wrong:
            problems += [f"line {number}: {w}" for w in wrong]
            continue
        files = {c: path.parent / row[c] for c in FILES if c in row}
        texts = {c: row[c] for c in ("id", "prompt", "target_prompt", "split") if c in row}
        cases.append(
            Case(**texts, **files, tags=tuple(tags), expect=expect, crop=None if crop is None else tuple(crop))
        )
    return cases


def read_pie(path: Path, problems: list[str]) -> list[Case]:
    """PIE-Bench (Ju 2024): mapping_file.json beside annotation_images/; edited words stand in [brackets]."""
    try:
        table = json.loads(path.read_text("utf-8"))
        rows = list(table.items())
    except (ValueError, AttributeError, RecursionError):
        problems.append("it is no JSON object")
        return []
    cases = []
    for name, row in rows:
        try:
            runs = tuple(int(n) for n in row["mask"])
            if len(runs) % 2 or min(runs, default=0) < 0:
                raise ValueError
            cases.append(
                Case(
                    name,
                    path.parent / "annotation_images" / row["image_path"],
                    without_brackets(row["original_prompt"]),
                    without_brackets(row["editing_prompt"]),
                    runs,
                    tags=(f"type {row.get('editing_type_id', '?')}",),
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            problems.append(
                f"{name}: needs image_path, original_prompt, editing_prompt, and mask as a list of starts and lengths"
            )
    return cases


def without_brackets(prompt: str) -> str:
    """'a [round] cake' -> 'a round cake'."""
    return re.sub(r"\s+", " ", prompt.replace("[", "").replace("]", "")).strip()


def is_text(x: Any) -> bool:
    return isinstance(x, str) and bool(x.strip())


def check(cases: list[Case], problems: list[str]) -> list[Case]:
    """The cases with their sizes; what is wrong with them together or with their files goes to `problems`."""
    sized, seen = [], set()
    for case in cases:
        if case.id in seen:
            problems.append(f"id {case.id!r} occurs twice")
        if not re.fullmatch(r"[\w.-]+", case.id) or case.id.startswith("."):
            problems.append(f"id {case.id!r} must be letters, digits, '.', '_' and '-', as it names a file")
        if not (case.prompt.strip() and case.target_prompt.strip()):
            problems.append(f"{case.id}: a prompt is empty")
        seen.add(case.id)
        sized.append(replace(case, size=check_files(case, problems)))
    return sized


def check_files(case: Case, problems: list[str]) -> tuple[int, int]:
    """Size of the source; every file of the case is opened, for a damaged one should not stop a long run."""
    sizes: dict[str, tuple[int, int]] = {}
    for role in FILES:
        if isinstance(file := getattr(case, role), Path):
            try:
                height, width = (read_mask if role == "mask" else open_image)(file).shape[-2:]
                sizes[role] = width, height
            except InputError as err:
                problems.append(f"{case.id}: {role}: {err}")
    size = sizes.get("source", (0, 0))
    if case.crop is not None and "source" in sizes:
        left, top, right, bottom = case.crop
        if not (
            0 <= left <= right - CROP_MIN and 0 <= top <= bottom - CROP_MIN and right <= size[0] and bottom <= size[1]
        ):
            problems.append(
                f"{case.id}: crop {list(case.crop)} must lie inside of the source's {size[0]}x{size[1]} px and be at "
                f"least {CROP_MIN} px wide and high"
            )
    for role, other in sizes.items():
        if "source" in sizes and other != size:
            problems.append(f"{case.id}: {role} is {other[0]}x{other[1]} px but the source {size[0]}x{size[1]}")
    return size
