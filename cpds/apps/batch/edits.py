"""The edits of rows, as their commands make them: what is edited, the edit, and its result as files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cpds.apps.batch.rows import Row

if TYPE_CHECKING:
    from cpds.images import SourceImage
    from cpds.priors.base import Prior

Files = dict[str, bytes]  # suffix -> content; the edited thing's own format first


@dataclass(frozen=True)
class Edited:
    """The files of a row's result, and what its user should know."""

    files: Files
    notes: tuple[str, ...] = ()


class Opened(NamedTuple):
    """What a row edits, before the edit."""

    representation: Any
    notes: tuple[str, ...] = ()  # what its user should know
    suffix: str = ""  # ends both prompts


def edited(rows: Sequence[Row], prior: "Prior") -> Iterator[Edited]:
    """The rows' results, in their order: images of one size and of one setting, or one row of any kind.

    Raises whatever the edit does.
    """
    if rows[0].command == "image":
        yield from images(rows, prior)
    else:
        (row,) = rows
        yield rendered(row, opened(row, prior), prior)


def opened(row: Row, prior: "Prior") -> Opened:
    """What a row edits, as its command opens it. InputError for files that cannot be used."""
    return {"image": image, "svg": drawing, "splats": scene}[row.command](row, prior)


def images(rows: Sequence[Row], prior: "Prior") -> Iterator[Edited]:
    """As `cpds image` edits each of them; see `LatentImage`, which edits several as if each were alone."""
    import torch

    from cpds.editor import edit
    from cpds.images import open_source
    from cpds.state import preview_of
    from representations.latent import LatentImage, LatentImageConfig

    args = rows[0].args
    sources = [open_source(row.source) for row in rows]
    masks = [source.editable(layer_mask(row, source)) for row, source in zip(rows, sources, strict=True)]
    if len(rows) > 1 and any(m is not None for m in masks):
        masks = [torch.ones_like(s.image[:, :1]) if m is None else m for m, s in zip(masks, sources, strict=True)]
    mask = None if masks[0] is None else torch.cat([m for m in masks if m is not None])
    config = LatentImageConfig(args.resolution, args.keep_unchanged)
    shown = LatentImage(torch.cat([source.image for source in sources]), prior, config, mask)
    state = edit(shown, prior, [row.args.prompt for row in rows], [row.target_prompt for row in rows], args.edit)
    for source, result in zip(sources, preview_of(state).split(1), strict=True):
        yield Edited({"png": source.png(result)}, source.notes)


def layer_mask(row: Row, source: "SourceImage") -> Any:
    """(1, 1, H, W): the row's mask; None: it has none."""
    from cpds.masks import edit_mask, fitting

    return None if row.args.mask is None else fitting(edit_mask(row.args.mask), row.args.mask, source.image)


def image(row: Row, prior: "Prior") -> Opened:
    """As `cpds image` opens it."""
    from cpds.images import open_source
    from representations.latent import LatentImage, LatentImageConfig

    source = open_source(row.source)
    config = LatentImageConfig(row.args.resolution, row.args.keep_unchanged)
    return Opened(LatentImage.of(source, prior, config, layer_mask(row, source)), source.notes)


def drawing(row: Row, prior: "Prior") -> Opened:
    """As `cpds svg` opens it."""
    from cpds.masks import edit_mask
    from svg.document import Document
    from svg.fading import prepared
    from svg.image import SvgImage
    from svg.rasterizer import make_rasterizer

    args = row.args
    document = prepared(Document.open(row.source), args.scene)
    mask = None if args.mask is None else edit_mask(args.mask)
    shown = SvgImage(document, prior, args.scene, mask, make_rasterizer(document, args.rasterizer))
    warning = document.warning()
    return Opened(shown, () if warning is None else (warning,), args.scene.suffix)


def scene(row: Row, prior: "Prior") -> Opened:
    """As `cpds splats` opens it."""
    from representations.splats.scene import SplatScene

    args = row.args
    return Opened(SplatScene.open(row.source, args.cameras, prior, args.views, args.frame, args.masks))


def rendered(row: Row, opened: Opened, prior: "Prior") -> Edited:
    """The edit of something with a file format of its own."""
    from cpds.editor import edit
    from cpds.images import png, to_pil
    from cpds.state import preview_of

    shown, notes, suffix = opened
    state = edit(shown, prior, row.args.prompt + suffix, row.target_prompt + suffix, row.args.edit)
    return Edited({shown.suffix: shown.export(), "png": png(to_pil(preview_of(state)))}, notes)
