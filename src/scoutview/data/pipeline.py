"""What the loader asks of random views: draw parameters, then apply them.

`views` implements this; `data` only names it, because imports run from views to data.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ViewPipeline(Protocol):
    """Makes the views of one image. Shared by all threads of a loader, so it holds no state."""

    @property
    def sizes(self) -> Sequence[tuple[int, ...]]:
        """Size `*S` of every view, in order; views of one size stand together."""
        ...

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> Sequence[Any]:
        """Draw the parameters of all views of one image.

        Args:
            shape: `*S` of the stored image.
            generator: The generator of this image in this epoch; every parameter takes a fixed
                slot. It is only valid during the call.

        Returns:
            One parameter object per view, in the order of `sizes`.
        """

    def geometry(self, params: Any) -> NDArray[np.float32]:
        """Return the (ndim, ndim + 1) map from view to stored index coordinates of one view."""

    def bounding_box(
        self, params: Sequence[Any], shape: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return start and stop of the part of an image that gives the same views as the whole."""

    def apply(
        self,
        image: NDArray[Any],
        params: Sequence[Any],
        out: Sequence[NDArray[Any]],
        origin: tuple[int, ...] = (0, 0),
    ) -> None:
        """Write all views of one image.

        Args:
            image: (*S) or (*S, 3), uint8 or uint16 whose full range is [0, 1]; possibly only the
                bounding box of all views.
            params: What `draw` returned.
            out: One array per view, (C, *S of the view), same dtype as the image.
            origin: Index coordinates of the first element of `image` in the stored image.
        """
