# SPDX-License-Identifier: Apache-2.0
"""Pictures from files, folders, globs, lists, arrays, PIL images: ``expand`` lists them, ``load`` decodes one.

Colours are **RGB** everywhere in fastdet. Arrays from ``cv2.imread`` are BGR: give ``image[..., ::-1]``.
"""

from __future__ import annotations

import glob
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.image_files import PICTURE_SUFFIXES, ImageError, from_pil, os_reason, read_image

__all__ = ["ImageError", "Picture", "expand", "load", "read_image"]

VIDEO_SUFFIXES = {".asf", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
LIST_LIMIT = 64 << 20  # bytes of a .txt list


@dataclass(frozen=True)
class Picture:
    """A decoded picture: ``image`` [H, W, 3] uint8 **RGB**, ``path`` of its file or None."""

    image: np.ndarray
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


class Items(list[Any]):
    """What ``expand`` returns: a list that ``expand`` leaves alone, so that nothing is looked up twice."""


def expand(sources: Any) -> Items:
    """List what ``sources`` names, in a fixed order, without opening a picture.

    Args:
        sources: one of, or a list or tuple of
            - a path (str or Path) of a picture;
            - a folder: the pictures directly inside, by name (plain string order);
            - a glob ("cells/*.jpg", "**" goes down), by path; a file whose name holds the pattern itself wins;
            - a ``.txt`` file: one path a line, relative to the file's folder, blank lines and ``#`` lines skipped;
            - a NumPy array [H, W, 3] uint8 **RGB** (grey [H, W] or [H, W, 1] and RGBA [H, W, 4] too), or [B, H, W, 3];
            - a torch tensor [3, H, W] or [B, 3, H, W] **RGB**, uint8 or floats in [0, 1], on any device;
            - a PIL image, turned by its EXIF rotation.

    Returns:
        Items, one per picture: Path, array, tensor, PIL image, or an ``ImageError`` for a source that names no picture
        (missing file, empty folder, glob without a match), so that the others can still be done.

    Raises:
        TypeError: a source is of another type. ValueError: an array is not of the shape or range above, a URL is given.
    """
    if isinstance(sources, Items):
        return sources
    if isinstance(sources, (list, tuple)):
        return Items(item for source in sources for item in expand(source))
    if isinstance(sources, (str, os.PathLike)):
        return Items(_expand_path(os.fspath(sources)))
    if isinstance(sources, np.ndarray) or _is_torch(sources):
        return Items(sources if sources.ndim == 4 else [sources])
    if _is_pil(sources):
        return Items([sources])
    raise TypeError(
        "sources: must be a path, folder, glob, NumPy array, torch tensor, PIL image or a list of them, "
        f"got {type(sources).__name__}"
    )


def load(item: Any) -> Picture:
    """Decode one item of ``expand``. Raises ImageError for a bad file, ValueError or TypeError for a bad array."""
    if isinstance(item, ImageError):
        raise item
    if isinstance(item, Path):
        return Picture(read_image(item), item)
    if isinstance(item, np.ndarray):
        return Picture(_from_array(item))
    if _is_torch(item):
        return Picture(_from_tensor(item))
    return Picture(from_pil(item, "PIL image"))


def _expand_path(source: str) -> list[Any]:
    if "://" in source[:16]:
        raise ValueError(f"sources: must be local, got the address {source.split('?')[0]!r}; download it first")
    if not source:
        raise ValueError("sources: a path must not be empty; '.' is the folder you are in")
    path = Path(source)
    try:
        if path.is_dir():
            return _expand_folder(path)
        if not path.exists() and any(sign in source for sign in "*?["):
            matches = sorted(glob.glob(source, recursive=True))
            found = [Path(match) for match in matches if not os.path.isdir(match)]
            return list(found) or [ImageError(path, "no file matches this pattern")]
    except (OSError, ValueError) as error:
        return [ImageError(path, os_reason(error))]
    if path.suffix.lower() == ".txt":
        return _expand_list(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return [ImageError(path, "is a video; only pictures are read")]
    return [path]


def _expand_folder(folder: Path) -> list[Any]:
    # A folder named like a picture is listed too: reading it says what is wrong instead of leaving it out silently.
    names = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES)
    if not names:
        kinds = " ".join(sorted(PICTURE_SUFFIXES))
        return [ImageError(folder, f"the folder holds no picture ({kinds}); folders inside it are not searched")]
    return [folder / name for name in names]


def _expand_list(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > LIST_LIMIT:
            return [ImageError(path, f"the list is larger than {LIST_LIMIT >> 20} MB")]
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return [ImageError(path, "the list is not UTF-8 text")]
    except OSError as error:
        return [ImageError(path, os_reason(error))]
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [path.parent / entry for entry in entries] or [ImageError(path, "the list names no picture")]


def _from_array(array: np.ndarray) -> np.ndarray:
    """[H, W], [H, W, 1 | 3 | 4] uint8 to [H, W, 3]; RGB goes through as it is, without a copy."""
    hint = ""
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        hint = "; did you mean image.transpose(1, 2, 0)?"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"sources: an array must be (H, W, 3) uint8 RGB, got {array.shape} {array.dtype}{hint}")
    if array.dtype != np.uint8:
        raise TypeError(
            f"sources: an array must be uint8 in 0..255, got {array.dtype}; "
            "did you mean (image * 255).round().astype('uint8')?"
        )
    if 0 in array.shape:
        raise ValueError(f"sources: a picture must have pixels, got {array.shape}")
    if array.ndim == 2:
        array = array[..., None]
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]


def _from_tensor(tensor: Any) -> np.ndarray:
    """[3, H, W] or [1, H, W], uint8 or floats in [0, 1] rounded to 8 bits, to [H, W, 3] uint8 on the host."""
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        hint = "; did you mean tensor.permute(2, 0, 1)?" if tensor.ndim == 3 and tensor.shape[-1] == 3 else ""
        raise ValueError(f"sources: a tensor must be (3, H, W) or (B, 3, H, W) RGB, got {tuple(tensor.shape)}{hint}")
    array = tensor.detach()
    if tensor.is_floating_point():
        array = array.float().cpu().numpy()
        if array.size and not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(
                f"sources: a tensor of floats must lie in [0, 1], got {array.min():.4g} to {array.max():.4g}; "
                "divide by 255 or give uint8"
            )
        array = np.rint(array * 255).astype(np.uint8)
    else:
        array = array.cpu().numpy()
    return _from_array(array.transpose(1, 2, 0))


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_pil(value: Any) -> bool:
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)
