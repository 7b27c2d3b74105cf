# SPDX-License-Identifier: Apache-2.0
"""Adapters for other people's detectors: ``transformers``, ``torchvision``, ``mmcv``. Nothing else imports them."""

from __future__ import annotations

from typing import Any


def accelerate(model: Any, *, fold: bool = True) -> Any:
    """Replace the slow parts of another library's detector by fastdet's operators, in place; ``restore`` undoes it.

    The library is told by the classes of the model and its parts. Known is Hugging Face transformers:
    ``fastdet.integrations.transformers.accelerate`` says what is replaced, when, and what stays.

    Args:
        model: ``torch.nn.Module``. fold: fold convolutions with their BatchNorms for inference too.

    Returns:
        ``model``.

    Raises:
        TypeError: model is no module. ValueError: no part of it is known.
    """
    from fastdet.integrations import transformers

    return transformers.accelerate(model, fold=fold)


def restore(model: Any) -> Any:
    """Undo ``accelerate``, exactly. Returns ``model``.

    Args:
        model: what ``accelerate`` was given, a part or a copy of it.
    """
    from fastdet.integrations import transformers

    return transformers.restore(model)
