"""Figures made of images: a map of embeddings with thumbnails, and nearest neighbours."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from scoutview.base.randomness import SAMPLING, generator
from scoutview.results.figures import WIDTH, Picture, canvas, picture
from scoutview.results.palette import OTHER, SAME, class_colours

Floats = NDArray[np.float32]
Images = Callable[[Sequence[str]], list[Floats]]
"""Gives the images of image ids, (H, W) or (H, W, 3), in [0, 1]."""

MAP_POINTS: Final = 1000
THUMBNAILS: Final = 42


def embedding_map(
    arm: str,
    rows: pd.DataFrame,
    features: Floats,
    classes: Sequence[str],
    images: Images | None,
    *,
    seed: int = 0,
) -> Picture:
    """Draw a t-SNE map of test images with thumbnails.

    Args:
        arm: Whose embeddings they are.
        rows: Table with image_id, N rows.
        features: Embeddings, (N, dim).
        classes: Class of each row, "" unknown.
        images: Where thumbnails come from; None draws points only.
        seed: Of the choice of points and of t-SNE.
    """
    chosen = sample(len(rows), MAP_POINTS, seed)
    points = project(features[chosen], seed=seed)
    kinds = np.asarray(classes, dtype=object)[chosen]
    colours = class_colours(sorted(set(kinds) - {""}))
    wide, tall = np.ptp(points, axis=0)
    with canvas(height=WIDTH * float(np.clip(tall / max(wide, 1e-9), 0.5, 1.1)) + 0.4) as figure:
        axes = figure.add_subplot(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)
        for name, colour in colours.items():
            own = kinds == name
            axes.scatter(
                points[own, 0],
                points[own, 1],
                s=7,
                color=colour,
                linewidths=0,
                alpha=0.7,
                label=name,
            )
        if images is not None:
            places = spread(points, THUMBNAILS)
            ids = rows["image_id"].to_numpy()[chosen[places]]
            for place, image in zip(places, images(list(ids)), strict=True):
                _thumbnail(axes, points[place], image, colours.get(kinds[place], "#777777"))
        figure.legend(loc="outside lower left", ncols=3, markerscale=2.5)
        return picture(
            figure,
            f"embedding_{_file_name(arm)}",
            kind="png",
            alt=f"Map of {len(chosen)} test images by the embeddings of {arm}, coloured by label.",
            caption=(
                f"{arm}: {len(chosen)} test images, PCA to 50 dimensions, then t-SNE (perplexity"
                " 30). Neighbours are alike to the backbone; distances between far groups and the"
                " axes mean nothing. Labels give the colours, they were not used for the map."
            ),
        )


def sample(total: int, most: int, seed: int) -> NDArray[np.int64]:
    """Draw at most so many of range(total), in ascending order."""
    if total <= most:
        return np.arange(total)
    return np.sort(generator(seed, SAMPLING).choice(total, most, replace=False))


def project(features: Floats, *, seed: int) -> NDArray[np.float64]:
    """Reduce features (N, dim) to points (N, 2): PCA, then t-SNE; both are deterministic here."""
    depth = min(50, *features.shape)
    reduced = PCA(depth, svd_solver="full").fit_transform(features.astype(np.float64))
    perplexity = min(30.0, max(2.0, (len(features) - 1) / 3))
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500)
    points: NDArray[np.float64] = model.fit_transform(reduced).astype(np.float64)
    return points


def spread(points: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Choose points for thumbnails so that few overlap: farthest-point order, cut at a distance."""
    scale = np.ptp(points, axis=0).max()
    distance = np.full(len(points), np.inf)
    order: list[int] = []
    current = int(np.argmin(points.sum(axis=1)))
    while len(order) < min(count, len(points)):
        order.append(current)
        distance = np.minimum(distance, np.linalg.norm(points - points[current], axis=1))
        current = int(distance.argmax())
        if distance[current] < 0.085 * scale:
            break
    return np.array(order)


def _thumbnail(axes: Axes, where: NDArray[np.float64], image: Floats, colour: str) -> None:
    side = 19.0
    box = OffsetImage(
        _three_channels(image), zoom=side / max(image.shape[:2]), interpolation="bilinear"
    )
    axes.add_artist(
        AnnotationBbox(
            box, tuple(where), pad=0.08, bboxprops={"edgecolor": colour, "linewidth": 1.4}
        )
    )


def nearest(queries: Floats, bank: Floats, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the k most similar rows of a bank by cosine.

    Args:
        queries: (Q, dim).
        bank: (N, dim).
        k: At most N.

    Returns:
        Rows of the bank (Q, k), most similar first, and their cosines (Q, k).
    """
    a = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    b = bank / np.maximum(np.linalg.norm(bank, axis=1, keepdims=True), 1e-12)
    similarity = (a @ b.T).astype(np.float64)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


def neighbour_grid(
    arm: str,
    rows: pd.DataFrame,
    features: Floats,
    classes: Sequence[str],
    images: Images,
    *,
    queries: int = 6,
    k: int = 4,
    seed: int = 0,
) -> Picture | None:
    """Draw test images beside their nearest training images.

    Queries are drawn at random, the same number per class, so the grid is neither the best nor the
    worst of it.

    Args:
        arm: Whose embeddings they are.
        rows: Table with image_id and split, N rows.
        features: Embeddings, (N, dim).
        classes: Class of each row, "" unknown.
        images: Gives the images.
        queries: Test images shown.
        k: Neighbours of each.
        seed: Of the choice of queries.

    Returns:
        The picture; None without labelled test images or with fewer than k training images.
    """
    kinds = np.asarray(classes, dtype=object)
    test = np.flatnonzero((rows["split"] == "test").to_numpy() & (kinds != ""))
    train = np.flatnonzero((rows["split"] == "train").to_numpy() & (kinds != ""))
    if not len(test) or len(train) < k:
        return None
    chosen = _per_class(test, kinds, queries, seed)
    found, _ = nearest(features[chosen], features[train], k)
    agreement = float(
        (
            kinds[train[nearest(features[test], features[train], k)[0]]] == kinds[test][:, None]
        ).mean()
    )
    ids = rows["image_id"].to_numpy()
    with canvas(_PITCH[0] * (k + 1) + 0.04, _PITCH[1] * len(chosen) + _TOP, layout=None) as figure:
        for line, (query, neighbours) in enumerate(zip(chosen, train[found], strict=True)):
            shown = images([str(ids[i]) for i in (query, *neighbours)])
            places = [_tile_axes(figure, line, column) for column in range(k + 1)]
            _tile(places[0], shown[0], str(kinds[query]), "#111111")
            for axes, row, image in zip(places[1:], neighbours, shown[1:], strict=True):
                right = kinds[row] == kinds[query]
                colour = SAME if right else OTHER
                _tile(axes, image, str(kinds[row]), colour, sign="✓" if right else "✗")
        for column, text in enumerate(["test image", "nearest training images →"]):
            x = (column * _PITCH[0] + 0.04) / figure.get_figwidth()
            figure.text(x, 1, text, fontsize=8, fontweight="bold", va="top")
        return picture(
            figure,
            f"neighbours_{_file_name(arm)}",
            kind="png",
            alt=f"{len(chosen)} test images, each beside its {k} nearest training images.",
            caption=(
                f"{arm}: random test images (left) and their {k} nearest training images by cosine"
                f" similarity. ✓ same label, ✗ another. Over all {len(test)} labelled test images"
                f" {100 * agreement:.1f} % of the {k} nearest share the label."
            ),
        )


def _per_class(
    rows: NDArray[np.int64], kinds: NDArray[np.object_], count: int, seed: int
) -> NDArray[np.int64]:
    draw = generator(seed, SAMPLING, 1)
    shuffled = draw.permutation(rows)
    names = sorted(set(kinds[rows]))
    piles = [[i for i in shuffled if kinds[i] == name] for name in names]
    chosen: list[int] = []
    while len(chosen) < min(count, len(rows)):
        for pile in piles:
            if pile and len(chosen) < count:
                chosen.append(pile.pop())
    return np.array(sorted(chosen, key=lambda i: (str(kinds[i]), i)))


_PITCH: Final = (0.9, 1.06)
"""Inches from one tile to the next, across and down."""
_TOP: Final = 0.18
"""Inches of the line above the tiles."""


def _tile_axes(figure: Figure, line: int, column: int) -> Axes:
    wide, tall = figure.get_size_inches()
    left = column * _PITCH[0] + 0.04
    bottom = tall - _TOP - (line + 1) * _PITCH[1] + 0.22
    axes: Axes = figure.add_axes(
        (left / wide, bottom / tall, (_PITCH[0] - 0.07) / wide, (_PITCH[1] - 0.23) / tall)
    )
    return axes


def _tile(axes: Axes, image: Floats, text: str, colour: str, *, sign: str = "") -> None:
    axes.imshow(_three_channels(image), interpolation="bilinear")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set(visible=True, edgecolor=colour, linewidth=2.4)
    if sign:
        box = {"boxstyle": "square,pad=0.18", "facecolor": colour, "linewidth": 0}
        axes.annotate(
            sign,
            (1, 0),
            (-2, 2),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="bottom",
            color="white",
            fontsize=8,
            bbox=box,
        )
    shown = "\n".join(textwrap.wrap(text, 14, max_lines=2, placeholder="…"))
    axes.set_xlabel(shown, fontsize=7.5, color=colour, labelpad=3)


def _three_channels(image: Floats) -> Floats:
    shown = np.clip(image, 0, 1).astype(np.float32)
    return shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text.lower())
