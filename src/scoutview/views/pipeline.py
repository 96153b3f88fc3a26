"""A policy made ready for the loader: implements `data.pipeline.ViewPipeline`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scoutview.base.errors import ConfigError
from scoutview.views.apply import Pyramid, apply
from scoutview.views.draw import ViewParams, draw_specs
from scoutview.views.geometry import bounding_box
from scoutview.views.policy import ViewPolicy


class Views:
    """Makes the views of one image after the other. Holds no state, so threads share it."""

    def __init__(self, policy: ViewPolicy, *, ndim: int = 2) -> None:
        """Resolve a policy.

        Args:
            policy: Which views to make.
            ndim: Spatial dimensions of the images.

        Raises:
            ConfigError: Views of one size do not stand together.
        """
        self.policy = policy
        self._specs = policy.specs(ndim)
        self.sizes = tuple(spec.size for spec in self._specs)
        changes = sum(a != b for a, b in zip(self.sizes, self.sizes[1:], strict=False))
        if changes + 1 != len(set(self.sizes)):
            raise ConfigError(
                f"Views of one size must stand together, got sizes {self.sizes}; merge the groups."
            )

    def draw(
        self,
        shape: tuple[int, ...],
        generator: np.random.Generator,
        *,
        spacing: Sequence[float] | None = None,
    ) -> list[ViewParams]:
        """Draw the parameters of all views of one image; see `views.draw.draw`."""
        return draw_specs(self._specs, shape, generator, spacing=spacing)

    def geometry(self, params: ViewParams) -> NDArray[np.float32]:
        """Return the (ndim, ndim + 1) map from view to stored index coordinates of one view."""
        return np.array(params.affine, dtype=np.float32)

    def bounding_box(
        self, params: Sequence[ViewParams], shape: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return start and stop of the part that gives the same views as the whole image."""
        return bounding_box(params, shape)

    def apply(
        self,
        image: NDArray[Any],
        params: Sequence[ViewParams],
        out: Sequence[NDArray[Any]],
        origin: tuple[int, ...] = (0, 0),
    ) -> None:
        """Write all views of one image; see `views.apply.apply`."""
        pyramid = Pyramid(image)
        for view, place in zip(params, out, strict=True):
            apply(pyramid, view, place, origin=origin)
