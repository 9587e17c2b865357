"""The views that a scene was trained on, at a size that is chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image
from torch import Tensor

from cpds.errors import InputError
from cpds.images import SUFFIXES, resized
from cpds.masks import read_mask
from cpds.types import Images
from nerf_plugin.rendering import camera_at


class Views:
    """A datamanager's training images and cameras. Raises InputError where there is none.

    `background` (3,) lies behind images that are transparent; `size` maps the (H, W) of a view to the one wanted.
    """

    def __init__(
        self, datamanager: Any, background: Float[Tensor, " 3"], size: Callable[[int, int], Sequence[int]]
    ) -> None:
        self._manager, self._background = datamanager, background.cpu()
        self._data = datamanager.train_dataset
        self._cached = getattr(datamanager, "cached_train", None)  # undistorted, which changes the cameras: first
        self._parsed = datamanager.train_dataparser_outputs.cameras  # before that
        cameras = getattr(datamanager, "train_cameras", self._data.cameras)
        if not len(cameras):
            raise InputError(f"{datamanager.get_datapath()} has no training view: check data")
        stems = [Path(f).stem for f in self._data.image_filenames]
        unique = max(Counter(stems).values()) == 1
        self.names = stems if unique else [f"{i:04d}_{stem}" for i, stem in enumerate(stems)]
        self.cameras = []
        for i in range(len(cameras)):
            one = cameras[i : i + 1]
            self.cameras.append(camera_at(one, *size(int(one.height), int(one.width))))

    def __len__(self) -> int:
        return len(self.cameras)

    def move(self, camera_optimizer: Any) -> None:
        """Put the cameras where training found them to be."""
        for view, camera in enumerate(self.cameras):
            camera.metadata = {"cam_idx": view}
            camera.camera_to_worlds = camera_optimizer.apply_to_camera(camera).detach()
            camera.metadata = None

    def size(self, view: int) -> tuple[int, int]:
        """(H, W) of a view."""
        return int(self.cameras[view].height), int(self.cameras[view].width)

    def image(self, view: int) -> Images:
        """What the dataset shows there, on the CPU."""
        data = self._data.get_data(view) if self._cached is None else self._cached[view]
        image = data["image"].cpu()
        image = image / 255 if image.dtype == torch.uint8 else image
        if image.shape[-1] == 4:
            image = image[..., :3] * image[..., 3:] + self._background * (1 - image[..., 3:])
        return self.fitted(image.permute(2, 0, 1)[None], view)

    def replace_image(self, view: int, image: Images) -> None:
        """Train on `image` where the dataset's was; it takes that one's size and type."""
        if self._cached is not None:
            self._cached[view]["image"] = as_pixels(image, self._cached[view]["image"])
            return
        batch = self._manager.train_image_dataloader.cached_collated_batch
        row = batch["image_idx"].tolist().index(view)
        batch["image"][row] = as_pixels(image, batch["image"][row])

    def fitted(self, image: Float[Tensor, "1 c h w"], view: int) -> Float[Tensor, "1 c H W"]:
        """An image of a view at the view's size."""
        return resized(image, self.size(view))

    def masks(self, folder: Path) -> list[Float[Tensor, "1 1 H W"]]:
        """Where each view may change (1), from images in `folder` that are named like the training images.

        Raises InputError where one is missing or cannot be read.
        """
        found = []
        for view, name in enumerate(self.names):
            files = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
            file = next((f for f in files if f.is_file()), None)
            if file is None:
                raise InputError(f"there is no mask for the training image {name}: put {name}.png into {folder}")
            found.append(self.fitted(self.undistorted(read_mask(file), view), view))
        return found

    def undistorted(self, mask: Float[Tensor, "1 1 h w"], view: int) -> Float[Tensor, "1 1 _h _w"]:
        """A mask of a view as nerfstudio bends and crops the view's image, which it does for splats alone."""
        camera = self._parsed[view].reshape(())
        if self._cached is None or camera.distortion_params is None or not camera.distortion_params.any():
            return mask
        pixels = resized(mask, (int(camera.height), int(camera.width)))[0, 0].numpy()
        k = camera.get_intrinsics_matrices().numpy()
        _, straight, _ = _undistort_image(camera, camera.distortion_params.numpy(), {}, pixels, k)
        return torch.from_numpy(straight)[None, None]


def as_pixels(image: Images, like: Tensor) -> Tensor:
    """(H, W, c) of the size and type of `like`, opaque, from an image of any size."""
    fitted = resized(image, like.shape[:2])[0].permute(1, 2, 0)
    if like.shape[2] == 4:
        fitted = torch.cat([fitted, torch.ones_like(fitted[..., :1])], 2)
    return (fitted * 255).round().to(like) if like.dtype == torch.uint8 else fitted.to(like)
