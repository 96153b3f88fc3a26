"""Views made where the batch is: images travel to the device once, whatever the number of views."""

from dataclasses import replace

import torch

from scoutview.data.batch import Batch
from scoutview.views.torch_apply import apply_batch, as_unit


def make_views(batch: Batch) -> Batch:
    """Make the views of a batch whose images came without; other batches stay as they are.

    They have the parameters that the CPU kernel would have used, and differ by its roundings.

    Args:
        batch: As the loader gives it, on the device.

    Returns:
        The batch with views, (B, C, *size) float32 in [0, 1].
    """
    if batch.images is None:
        return batch
    stacks = [as_unit(stack) for stack in batch.images.stacks]
    params, members = batch.images.params, batch.images.members
    place = torch.tensor([row for rows in members for row in rows]).argsort().to(batch.rows.device)
    views = []
    for number in range(len(params[0])):
        parts = [
            apply_batch(stack, [params[row][number] for row in rows])
            for stack, rows in zip(stacks, members, strict=True)
        ]
        views.append(parts[0] if len(parts) == 1 else torch.cat(parts)[place])
    return replace(batch, views=views, images=None)
