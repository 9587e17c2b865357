"""Gaussians as a pinhole camera sees them (EWA splatting, Zwicker 2001), with gsplat's conventions."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Quats = Float[Tensor, "n 4"]  # w x y z, of any length > 0


@dataclass(frozen=True)
class Projected:
    """What c cameras see of n gaussians; px, with pixel centres at halves. Values where `radii` is 0 mean nothing."""

    means2d: Float[Tensor, "c n 2"]
    depths: Float[Tensor, "c n"]  # along the optical axis
    covariances: Float[Tensor, "c n 3"]  # xx, xy, yy; px²
    determinants: Float[Tensor, "c n"]  # of the covariances
    compensations: Float[Tensor, "c n"]  # sqrt(det before / det after widening), in [0, 1]
    radii: Int[Tensor, "c n"]  # px; 0 where culled

    @property
    def conics(self) -> Float[Tensor, "c n 3"]:
        """The inverse covariances: xx, xy, yy."""
        xx, xy, yy = self.covariances.unbind(-1)
        det = torch.where(self.radii > 0, self.determinants, 1.0)
        return torch.stack([yy, -xy, xx], -1) / det[..., None]


def rotations(quats: Quats) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions, which are normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def centres(viewmats: Float[Tensor, "c 4 4"]) -> Float[Tensor, "c 3"]:
    """Where the cameras stand, in world coordinates."""
    return torch.linalg.inv(viewmats)[:, :3, 3]


def project(
    means: Float[Tensor, "n 3"],
    quats: Quats,
    scales: Float[Tensor, "n 3"],
    viewmats: Float[Tensor, "c 4 4"],
    intrinsics: Float[Tensor, "c 3 3"],
    size: tuple[int, int],
    planes: tuple[float, float],
    eps2d: float,
    radius_clip: float,
) -> Projected:
    """Project by the local affine approximation; `size` is (width, height) px, `planes` (near, far).

    J W Sigma W^T J^T + eps2d 1, where Sigma = R S S^T R^T and J is the projection's Jacobian at the mean, taken at most
    15 % of the picture outside of it (3DGS, Kerbl 2023).
    """
    turn = viewmats[:, :3, :3]
    seen = torch.einsum("cij,nj->cni", turn, means) + viewmats[:, None, :3, 3]
    depths = seen[..., 2]
    ahead = (depths > planes[0]) & (depths < planes[1])
    x, y, z = seen[..., 0], seen[..., 1], torch.where(ahead, depths, 1.0)
    fx, fy, cx, cy = (intrinsics[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)

    spread = torch.einsum("cij,njk->cnik", turn, rotations(quats) * scales[:, None, :])  # a root of W Sigma W^T
    sx, sy = (
        torch.minimum(torch.maximum(t / z, -(c / f + 0.15 * side / f)), (side - c) / f + 0.15 * side / f)
        for t, f, c, side in ((x, fx, cx, size[0]), (y, fy, cy, size[1]))
    )
    across = (fx / z)[..., None] * (spread[..., 0, :] - sx[..., None] * spread[..., 2, :])
    down = (fy / z)[..., None] * (spread[..., 1, :] - sy[..., None] * spread[..., 2, :])
    xx, xy, yy = ((a * b).sum(-1) for a, b in ((across, across), (across, down), (down, down)))
    # Lagrange's identity: xx yy - xy² by differences would lose the digits of needles
    before = torch.linalg.cross(across, down).square().sum(-1)
    after = before + eps2d * (xx + yy) + eps2d**2
    xx, yy = xx + eps2d, yy + eps2d
    compensations = (before / after.clamp(min=1e-20)).clamp(min=1e-12).sqrt()

    with torch.no_grad():
        middle = (xx + yy) / 2
        radii = (3 * (middle + (middle * middle - after).clamp(min=0.01).sqrt()).sqrt()).ceil()
        radii = torch.where(ahead & (after > 0) & (radii > radius_clip) & within(means2d, radii, size), radii, 0)
        # what lies just before the camera may be larger than an int holds
        radii = radii.clamp(max=2**30).int()
    return Projected(means2d, depths, torch.stack([xx, xy, yy], -1), after, compensations, radii)


def within(means2d: Float[Tensor, "c n 2"], radii: Float[Tensor, "c n"], size: tuple[int, int]) -> Bool[Tensor, "c n"]:
    """Whether the squares about the means reach into the picture."""
    side = means2d.new_tensor(size)
    return ((means2d + radii[..., None] > 0) & (means2d - radii[..., None] < side)).all(-1)
