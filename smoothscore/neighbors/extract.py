"""Features of all images: a frozen extractor over batches, in evaluation mode and without gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothscore.errors import UserError
from smoothscore.neighbors.features import as_float, extractor_name


def extract_features(
    data: Tensor,
    extractor: nn.Module,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Tensor:
    """Map all images of ``data`` to features, batch by batch, in evaluation mode and without gradient.

    Args:
        data: Images [M, *S], float in [0, 1] or uint8 meaning value/255.
        extractor: Any module from float images [B, *S] to features [B, F].
        batch_size: Images per pass.
        device: Where the pass runs (the extractor is moved there); None: where its weights are.
        progress: Show a progress bar once it takes more than two seconds.

    Returns:
        Features, float32 [M, F], on the CPU.

    Raises:
        UserError: If the extractor's output is not [B, F], or holds NaN or infinity (the row is named).
    """
    with features_bar(len(data), extractor, progress) as bar:
        return extract_rows(data, extractor, range(len(data)), batch_size, device, bar.update)


def features_bar(total: int, extractor: nn.Module, progress: bool) -> "tqdm[Any]":
    """Return the progress bar of an extraction."""
    name = extractor_name(extractor)
    return tqdm(total=total, desc=f"features ({name})", unit="image", disable=not progress, delay=2)


def extract_rows(
    data: Tensor,
    extractor: nn.Module,
    rows: range,
    batch_size: int,
    device: torch.device | str | None,
    advance: Callable[[int], object],
) -> Tensor:
    """Map a range of the images to features, float32 [len(rows), F]; see ``extract_features``."""
    if device is not None:
        extractor.to(device)
    weight = next(extractor.parameters(), next(extractor.buffers(), None))
    device = weight.device if weight is not None else torch.device(device or "cpu")
    name = extractor_name(extractor)
    features = torch.empty(0)
    was_training = extractor.training
    extractor.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(rows), batch_size):
                first = rows.start + start
                images = data[first : min(first + batch_size, rows.stop)]
                batch = extractor(as_float(images.to(device)))
                if not isinstance(batch, Tensor) or batch.ndim != 2 or len(batch) != len(images):
                    shape = list(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
                    raise UserError(
                        f"the extractor {name!r} turned {len(images)} images into {shape}; it has to return one "
                        f"tensor [{len(images)}, F] of features: pool or flatten its output."
                    )
                if start == 0:
                    features = torch.empty(len(rows), batch.shape[1])
                features[start : start + len(images)] = batch  # copies to the CPU
                bad = ~features[start : start + len(images)].isfinite().all(1)
                if bad.any():
                    row = first + int(bad.nonzero()[0])
                    raise UserError(
                        f"the features ({name}) of row {row} hold NaN or infinity: look at that image and at the "
                        "extractor's weights."
                    )
                advance(len(images))
    finally:
        extractor.train(was_training)
    return features
