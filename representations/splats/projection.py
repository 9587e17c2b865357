"""Gaussians as a pinhole camera sees them (EWA splatting, Zwicker 2001), with gsplat's names and conventions."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Quats = Float[Tensor, "n 4"]  # w x y z, of any length > 0


@dataclass(frozen=True)
class Projected:
    """n gaussians before c cameras; px, with pixel centres at halves. Where `radii` is 0 the others mean nothing."""

    means2d: Float[Tensor, "c n 2"]
    depths: Float[Tensor, "c n"]  # along the optical axis
    cov2d: Float[Tensor, "c n 3"]  # xx, xy, yy after the widening by eps2d; px²
    det: Float[Tensor, "c n"]  # of cov2d
    compensations: Float[Tensor, "c n"]  # sqrt(det before / det after widening), in [0, 1]
    radii: Int[Tensor, "c n"]  # px; 0 where culled

    @property
    def conics(self) -> Float[Tensor, "c n 3"]:
        """The inverse of cov2d: xx, xy, yy."""
        xx, xy, yy = self.cov2d.unbind(-1)
        det = torch.where(self.radii > 0, self.det, 1.0)
        return torch.stack([yy, -xy, xx], -1) / det[..., None]


def quat_to_rotmat(quats: Quats) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions, which are normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def project(
    means: Float[Tensor, "n 3"],
    quats: Quats,
    scales: Float[Tensor, "n 3"],
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    size: tuple[int, int],
    planes: tuple[float, float],
    eps2d: float,
    radius_clip: float,
) -> Projected:
    """cov2d = J W Sigma W^T J^T + eps2d 1 with Sigma = R S S^T R^T (3DGS, Kerbl 2023, Eqs. 5 and 6).

    J is the projection's Jacobian at the mean, W the rotation of a viewmat. `size` is (width, height) px, `planes`
    (near, far). gsplat multiplies the covariance out; here its root M = R S is projected, which costs less and keeps
    the digits of gaussians as thin as needles.
    """
    W, t = viewmats[:, :3, :3], viewmats[:, :3, 3]
    means_c = means @ W.mT + t[:, None]
    x, y, depths = means_c.unbind(-1)
    in_range = (depths > planes[0]) & (depths < planes[1])
    z = torch.where(in_range, depths, 1.0)
    fx, fy, cx, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)

    M = quat_to_rotmat(quats) * scales[:, None]
    WM = (W @ M.transpose(0, 1).flatten(1)).unflatten(-1, (-1, 3))  # c 3 n 3: all gaussians side by side
    tx, ty = _slope(x / z, fx, cx, size[0]), _slope(y / z, fy, cy, size[1])
    # J = [[fx / z, 0, -fx tx / z], [0, fy / z, -fy ty / z]]: its rows times WM, without the zeros
    JWM_x = (fx / z)[..., None] * (WM[:, 0] - tx[..., None] * WM[:, 2])
    JWM_y = (fy / z)[..., None] * (WM[:, 1] - ty[..., None] * WM[:, 2])
    xx, xy, yy = ((a * b).sum(-1) for a, b in ((JWM_x, JWM_x), (JWM_x, JWM_y), (JWM_y, JWM_y)))
    # Lagrange's identity: xx yy - xy² by differences would lose the digits of needles
    det_orig = torch.linalg.cross(JWM_x, JWM_y).square().sum(-1)
    det = det_orig + eps2d * (xx + yy) + eps2d**2
    cov2d = torch.stack([xx + eps2d, xy, yy + eps2d], -1)
    compensations = (det_orig / det.clamp(min=1e-20)).clamp(min=1e-12).sqrt()
    radii = _radii(cov2d, det)
    visible = in_range & (det > 0) & (radii > radius_clip) & in_image(means2d, radii, size)
    # what lies just before the camera may be larger than an int holds
    radii = torch.where(visible, radii, 0).clamp(max=2**30).int()
    return Projected(means2d, depths, cov2d, det, compensations, radii)


def _slope(
    t: Float[Tensor, "c n"], f: Float[Tensor, "c 1"], c: Float[Tensor, "c 1"], side: int
) -> Float[Tensor, "c n"]:
    """x / z or y / z, at most 15 % of the image outside of it, where the affine approximation would be far off."""
    return torch.minimum(torch.maximum(t, -(c / f + 0.15 * side / f)), (side - c) / f + 0.15 * side / f)


@torch.no_grad()
def _radii(cov2d: Float[Tensor, "c n 3"], det: Float[Tensor, "c n"]) -> Float[Tensor, "c n"]:
    """3 standard deviations along the longer axis, rounded up; px."""
    b = (cov2d[..., 0] + cov2d[..., 2]) / 2
    return (3 * (b + (b * b - det).clamp(min=0.01).sqrt()).sqrt()).ceil()


@torch.no_grad()
def in_image(
    means2d: Float[Tensor, "c n 2"], radii: Float[Tensor, "c n"], size: tuple[int, int]
) -> Bool[Tensor, "c n"]:
    """Whether the squares about the means reach into the image."""
    (x, y), (width, height) = means2d.unbind(-1), size
    return (x + radii > 0) & (y + radii > 0) & (x - radii < width) & (y - radii < height)
