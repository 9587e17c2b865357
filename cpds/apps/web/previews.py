"""What an upload shows before its edit: an SVG's page and what of it will change, a scene that turns."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpds.apps.batch.columns import columns, overridden, value_of
from cpds.apps.web.turntable import turntable

if TYPE_CHECKING:
    from cpds.representation import ImageSpec


def svg_preview(path: Path, settings: Mapping[str, Any], spec: "ImageSpec") -> tuple[bytes, list[str]]:
    """The page as PNG, and sentences on what will change and what will not. InputError for what cannot be edited."""
    from cpds.images import png, to_pil
    from cpds.threads import one_thread
    from svg.config import SvgConfig
    from svg.document import Document
    from svg.image import SvgImage
    from svg.summary import Summary, text_is_lost

    one_thread()
    config = overridden(SvgConfig(), _below("svg", "scene", settings))
    document = Document.open(path)
    image = SvgImage(document, spec, config)
    lines = Summary.of(image.document, config, image.size).lines()
    if warning := document.warning():
        lines.append(warning)
    if text_is_lost(document):
        lines.append("its text is not drawn here, for want of fonts; the file keeps it")
    return png(to_pil(image.preview())), lines


def scene_preview(path: Path, files: Mapping[str, Path], spec: "ImageSpec") -> tuple[bytes, list[str]]:
    """A scene that turns as GIF, and what it consists of. InputError for what cannot be edited."""
    from argparse import Namespace

    from cpds.threads import one_thread
    from representations.cameras import Frame, read_cameras
    from representations.splats.config import SplatConfig
    from representations.splats.ply import SplatFile

    one_thread()
    frame = files.get("frame")
    count = len(SplatFile.read(path).gaussians.means)
    cameras = read_cameras(files["cameras"], frame and Frame.read(frame))
    args = Namespace(cameras=files["cameras"], frame=frame, views=SplatConfig())
    return turntable(path, args, spec), [f"{count} gaussians, {len(cameras)} cameras"]


def _below(command: str, holder: str, settings: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Those settings that belong to one of the command's nested arguments, by their place in that."""
    found = {n: c for n, c in columns(command).items() if c.path[0] == holder and settings.get(n)}
    return {c.path[1:]: value_of(c.kind, settings[n], n) for n, c in found.items()}
