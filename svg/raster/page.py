"""A differentiable rasterizer for SVG in torch alone: fills, strokes, gradients, clips, group opacity; CPU or GPU.

    raster = Raster(document.root, document.width, document.height)
    image = raster.render(values, 128, 128)          # premultiplied RGBA, gradients reach every tensor of `values`

Anti-aliasing is exact area coverage (coverage.py); images agree with resvg's to about its 16 grey levels an edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Affine2D, Clip, Draw, Geometry, Gradient, Group, Solid, StaticPart, Stroke, Texture
from svg.raster.compose import Begin, Box, End, Fill, Paste, Step, compose
from svg.raster.coverage import boxes_of, coverage
from svg.raster.edges import PageEdges, Shape, page_edges
from svg.raster.gradients import paint
from svg.raster.outlines import Outlines

RGBA = Float[Tensor, "4 H W"]  # premultiplied


class Raster:
    """A page of `width` x `height` px, ready to be drawn with any numbers at any size."""

    def __init__(self, root: Group, width: float, height: float) -> None:
        self.root, self.width, self.height = root, width, height
        self.shapes: list[Shape] = []
        self._of: dict[tuple[int, bool], int] = {}  # (id of a draw, stroke) -> shape
        self._clips: set[int] = set()
        self._images: dict[tuple[int, int, int, torch.device], Tensor] = {}
        geometries: dict[Geometry, int] = {}
        self._collect(root, geometries)
        self.outlines = Outlines(list(geometries))
        identity = torch.eye(3, dtype=torch.float64)
        frames = [identity.new_tensor(s.draw.matrix.rows) for s in self.shapes]
        self.frames = torch.stack(frames) if frames else identity.new_zeros(0, 3, 3)  # of each shape, to the page's px

    def _collect(self, node: Group | Draw | StaticPart | Clip, geometries: dict[Geometry, int]) -> None:
        if isinstance(node, Group):
            for child in node.children:
                self._collect(child, geometries)
            if node.clip:
                self._collect(node.clip, geometries)
        elif isinstance(node, Clip):
            if id(node) in self._clips:
                return
            self._clips.add(id(node))
            for draw, within in node.draws:
                self._add(draw, None, geometries)
                if within:
                    self._collect(within, geometries)
            if node.clip:
                self._collect(node.clip, geometries)
        elif isinstance(node, Draw):
            if node.fill:
                self._add(node, None, geometries)
            if node.stroke:
                self._add(node, node.stroke, geometries)

    def _add(self, draw: Draw, stroke: Stroke | None, geometries: dict[Geometry, int]) -> None:
        if (id(draw), bool(stroke)) not in self._of:
            self._of[id(draw), bool(stroke)] = len(self.shapes)
            self.shapes.append(Shape(draw, geometries.setdefault(draw.geometry, len(geometries)), stroke))

    def static_image(
        self, part: StaticPart | Texture, height: int, width: int, device: torch.device
    ) -> Float[Tensor, "H W 4"]:
        """resvg's image of what is not edited, premultiplied; drawn once for each size."""
        from svg.raster import resvg

        place = (id(part), height, width, device)
        if place not in self._images:
            self._images[place] = resvg.draw(part.svg, height, width).to(device)
        return self._images[place]

    def render(self, values: Mapping[str, Tensor], height: int, width: int) -> RGBA:
        """The page at `height` x `width` px, transparent where nothing is drawn."""
        return render([self], [values], height, width)[0]


def render(
    pages: Sequence[Raster], values: Sequence[Mapping[str, Tensor]], height: int, width: int
) -> Float[Tensor, "b 4 H W"]:
    """Several pages at one size, each with its own numbers; premultiplied RGBA. Edges of all are covered at once."""
    found, matrices = [], []
    for page, own in zip(pages, values, strict=True):
        device = next((v.device for v in own.values()), torch.device("cpu"))
        like = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
        view = like.new_tensor(Affine2D.scaling(width / page.width, height / page.height).rows)
        matrices.append(view @ page.frames.to(like))
        found.append(page_edges(page.shapes, page.outlines, {k: v.to(like) for k, v in own.items()}, matrices[-1]))
    offsets = [sum(len(p.shapes) for p in pages[:i]) for i in range(len(pages) + 1)]
    shapes = [s for page in pages for s in page.shapes]
    drawn = [(f.edges, f.owner + o) for f, o in zip(found, offsets, strict=False)]
    edges, owner = torch.cat([e for e, _ in drawn]), torch.cat([o for _, o in drawn])
    boxes = boxes_of(edges, owner, len(shapes), width, height)
    rules = [s.stroke is None and s.draw.fill_rule == "evenodd" for s in shapes]
    evenodd = torch.tensor(rules, dtype=torch.bool, device=edges.device)
    flat = coverage(edges, owner, boxes, evenodd).float()
    rows = list(zip(boxes.start.tolist(), boxes.stride.tolist(), strict=True))
    places = torch.stack([boxes.left, boxes.top, boxes.width, boxes.height], 1).tolist()
    images = []
    for i, (page, own) in enumerate(zip(pages, values, strict=True)):
        part = slice(offsets[i], offsets[i + 1])
        images.append(_compose(page, own, flat, rows[part], places[part], matrices[i], found[i], height, width))
    return torch.stack(images)


def _compose(
    page: Raster,
    values: Mapping[str, Tensor],
    flat: Tensor,
    rows: list[tuple[int, int]],
    places: list[list[int]],
    matrices: Tensor,
    edges: PageEdges,
    height: int,
    width: int,
) -> RGBA:
    """Paint a page's shapes and layers in order."""
    device = matrices.device
    colors, maps, map_of = _paints(page, values, places, matrices, edges, (height, width))
    opacities: list[Tensor] = []
    tape: list[Step] = []

    def covered(i: int) -> Tensor:
        full = flat.new_zeros(height, width)
        x, y, w, h = places[i]
        start, stride = rows[i]
        full[y : y + h, x : x + w] = flat.detach()[start : start + stride * h].view(h, stride)[:, :w]
        return full

    masks: dict[int, Tensor] = {}

    def clip_mask(clip: Clip | None) -> Tensor | None:
        if clip is None:
            return None
        if id(clip) not in masks:
            masks[id(clip)] = make_mask(clip)
        return masks[id(clip)]

    def make_mask(clip: Clip) -> Tensor:
        hidden = flat.new_ones(height, width)
        for draw, within in clip.draws:
            own = covered(page._of[id(draw), False])
            inner = clip_mask(within)
            hidden = hidden * (1 - (own if inner is None else own * inner))
        outer = clip_mask(clip.clip)
        return 1 - hidden if outer is None else (1 - hidden) * outer

    def opacity_index(key: str | None) -> int | None:
        if key is None:
            return None
        opacities.append(values[key].reshape(()).float())
        return len(opacities) - 1

    def fill(i: int, clip: Tensor | None, opacity: int | None) -> None:
        if places[i][2] > 0:
            tape.append(Fill(i, Box(places[i]), map_of.get(i), clip, opacity))

    def visit(node: Group | Draw | StaticPart, clip: Tensor | None = None, opacity: int | None = None) -> None:
        if isinstance(node, Draw):
            order = [page._of.get((id(node), s)) for s in ((True, False) if node.stroke_first else (False, True))]
            for i in order:
                if i is not None:
                    fill(i, clip, opacity)
        elif isinstance(node, StaticPart):
            tape.append(Paste(page.static_image(node, height, width, device), clip))
        else:
            mask, dim = clip_mask(node.clip), opacity_index(node.opacity)
            alone = len(node.children) == 1 and isinstance(node.children[0], Draw)
            alone = alone and not (node.children[0].fill and node.children[0].stroke)  # pyright: ignore[reportAttributeAccessIssue]
            if alone and clip is None and opacity is None:
                visit(node.children[0], mask, dim)
                return
            layered = mask is not None or dim is not None
            if layered:
                tape.append(Begin())
            for child in node.children:
                visit(child)
            if layered:
                tape.append(End(dim, mask))

    visit(page.root)
    dims = torch.stack(opacities) if opacities else torch.zeros(0, device=device)
    return compose((height, width), tape, rows, flat, colors, dims, maps).permute(2, 0, 1)


def _paints(
    page: Raster,
    values: Mapping[str, Tensor],
    places: list[list[int]],
    matrices: Tensor,
    edges: PageEdges,
    size: tuple[int, int],
) -> tuple[Tensor, list[Tensor], dict[int, int]]:
    """Every shape's color and opacity, the images of gradients and patterns, and which shape has which."""
    device = matrices.device
    black, one = torch.zeros(3, device=device), torch.ones(1, device=device)
    colors, maps, map_of = [], [], {}
    for i, s in enumerate(page.shapes):
        own = s.paint
        color = values[own.key].reshape(3).float() if isinstance(own, Solid) else black
        opacity = values[s.opacity].reshape(1).float() if s.opacity is not None else one
        colors.append(torch.cat([color, opacity]))
        if isinstance(own, Gradient) and places[i][2] > 0:
            low, high = edges.low[s.geometry].tolist(), edges.high[s.geometry].tolist()
            bounds = (low[0], low[1], high[0] - low[0], high[1] - low[1])
            to_user = torch.linalg.inv(matrices[i])
            map_of[i] = len(maps)
            maps.append(paint(own, values, to_user, bounds, tuple(places[i])).float())  # pyright: ignore[reportArgumentType]
        elif isinstance(own, Texture) and places[i][2] > 0:
            x, y, w, h = places[i]
            part = page.static_image(own, *size, device)[y : y + h, x : x + w]
            map_of[i] = len(maps)
            maps.append(torch.cat([part[..., :3] / part[..., 3:].clamp(min=1e-6), part[..., 3:]], -1))
    return torch.stack(colors) if colors else black.new_zeros(0, 4), maps, map_of


def over(image: Float[Tensor, "b 4 H W"], background: Tensor) -> Float[Tensor, "b 3 H W"]:
    """The image on an opaque background (broadcastable to (b, 3, H, W), RGB in [0, 1])."""
    return image[:, :3] + (1 - image[:, 3:]) * background
