"""Maps of sequence codes in two dimensions, coloured as in the paper's Fig. 2, the untrained control below."""

import importlib.util
import warnings
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ummgat.core.domain import SEQUENCES, Domain
from ummgat.quality.codes import ENCODERS, Codes
from ummgat.quality.separation import SPACES, scaled

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""One per sequence, in the order of `SEQUENCES`. Okabe & Ito 2008: told apart by colour-blind readers."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One per sequence, so that colour is never alone."""

FILLS = ("full", "white", "left", "bottom")
"""One per center, in order of appearance: full, an outline, halves."""

NEIGHBOURS = 15


class Flat(NamedTuple):
    """Vectors laid out in the plane."""

    points: NDArray[np.float64]
    """(row, 2)"""
    axes: tuple[str, str]
    method: str


def has_umap() -> bool:
    """Whether umap-learn (extra `codes`) is installed."""
    return importlib.util.find_spec("umap") is not None


def flatten(vectors: NDArray[np.float64], seed: int = 0) -> Flat:
    """Lay vectors out by UMAP, or by principal components where umap-learn is missing; `method` and `axes` say which.

    Parameters
    ----------
    vectors : ndarray (row, dimension)
        Columns are scaled to their standard deviation.
    seed : int
        Of UMAP, which runs on one thread to be reproducible.
    """
    values = scaled(vectors, vectors)
    if len(values) > 3 and values.any() and has_umap():
        return Flat(_umap(values, seed), ("UMAP 1", "UMAP 2"), "UMAP")
    reason = "umap-learn is not installed" if not has_umap() else "too little to lay out"
    u, s, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    points = np.zeros((len(values), 2))
    points[:, : min(2, len(s))] = (u * s)[:, :2]
    share = np.zeros(2)
    share[: min(2, len(s))] = (s**2 / max(float((s**2).sum()), 1e-12))[:2]
    names = [f"PCA {i + 1} ({100 * share[i]:.0f} % of variance)" for i in range(2)]
    return Flat(points, (names[0], names[1]), f"PCA ({reason})")


def _umap(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # it says that TensorFlow, which we do not use, is missing
        import umap
    # Starting from principal components: the spectral start warns and falls back when domains are not connected.
    layout = umap.UMAP(
        n_neighbors=min(NEIGHBOURS, len(values) - 1), init="pca", random_state=seed, n_jobs=1, metric="euclidean"
    )
    return np.asarray(layout.fit_transform(values.astype(np.float32)), np.float64)


def code_figure(found: Codes, space: str = "features", seed: int = 0) -> Figure:
    """Four colourings of one map (columns), of the trained and of the untrained encoder (rows).

    Parameters
    ----------
    found : Codes
    space : "features" or "codes"
        Codes come from a head per domain, which separates domains by itself; the title then says so.
    seed : int

    Returns
    -------
    Figure
        Columns: by target sequence; real or generated; by source; with lesion codes, on a map of their own.
    """
    names = sorted({r.target for r in found.rows} | {r.source for r in found.rows}, key=_order)
    centers = list(dict.fromkeys(Domain.parse(name).center for name in names))
    figure = Figure(figsize=(17, 9.2), layout="constrained")
    grid = figure.subplots(len(ENCODERS), 4, squeeze=False)
    method = ""
    for line, encoder in zip(grid, ENCODERS, strict=True):
        whole = np.concatenate([found.chosen(encoder=encoder, kind=kind) for kind in ("generated", "real")])
        lesions = np.concatenate([found.chosen(encoder=encoder, kind=kind) for kind in ("generated lesion", "lesion")])
        vectors = getattr(found, space)
        flat = flatten(vectors[whole], seed)
        method = flat.method
        kinds = found.column("kind", whole)
        _by_domain(line[0], flat.points, found.column("target", whole), centers)
        _by_kind(line[1], flat.points, kinds)
        fake = kinds == "generated"
        _by_domain(line[2], flat.points[fake], found.column("source", whole)[fake], centers)
        both = np.concatenate([whole, lesions])
        with_lesions = flatten(vectors[both], seed)
        _by_domain(
            line[3],
            with_lesions.points,
            found.column("target", both),
            centers,
            is_lesion=np.arange(len(both)) >= len(whole),
        )
        n_real, n_fake = int((kinds == "real").sum()), int(fake.sum())
        titles = (
            f"by target (n = {len(whole)})",
            f"real (n = {n_real}) or generated (n = {n_fake})",
            f"generated only, by source (n = {n_fake})",
            f"by target, lesions with a black edge (n = {len(lesions)})",
        )
        for axes, title, layout in zip(line, titles, (flat, flat, flat, with_lesions), strict=True):
            axes.set_title(f"{encoder} encoder: {title}", fontsize=9)
            axes.set(xlabel=layout.axes[0], ylabel=layout.axes[1], xticks=[], yticks=[])
    handles = [Line2D([], [], ls="", label=name, ms=7, **_style(name, centers)) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, title="center/sequence")
    what = (
        "Codes, one head per domain: heads alone separate domains, see the untrained row"
        if SPACES[space]
        else "Features of the shared trunk"
    )
    figure.suptitle(f"{what}, laid out by {method}. Generated images are not scans.", fontsize=11)
    return figure


def _order(name: str) -> tuple[str, int]:
    domain = Domain.parse(name)
    return domain.center, SEQUENCES.index(domain.sequence)


def _style(name: str, centers: list[str]) -> dict[str, Any]:
    """Colour and marker say the sequence, the filling says the center."""
    domain = Domain.parse(name)
    i = SEQUENCES.index(domain.sequence)
    fill = FILLS[centers.index(domain.center) % len(FILLS)]
    style = {"color": COLORS[i], "marker": MARKERS[i], "markerfacecoloralt": "white"}
    return style | ({"markerfacecolor": "white"} if fill == "white" else {"fillstyle": fill})


def _by_domain(
    axes: Axes,
    points: NDArray[np.float64],
    names: NDArray[np.str_],
    centers: list[str],
    is_lesion: NDArray[np.bool_] | None = None,
) -> None:
    lesion = np.zeros(len(names), bool) if is_lesion is None else is_lesion
    for name in sorted(np.unique(names), key=_order):
        style = _style(str(name), centers)
        for edge in (False, True):
            own = points[(names == name) & (lesion == edge)]
            if edge:  # the same shape in black, larger, behind
                axes.plot(*own.T, ls="", ms=8, color="black", marker=style["marker"])
            axes.plot(*own.T, ls="", ms=5, mew=0.8, alpha=1.0 if edge else 0.75, **style)


def _by_kind(axes: Axes, points: NDArray[np.float64], kinds: NDArray[np.str_]) -> None:
    """Generated below, real on top: there are fewer of them."""
    for kind, color, marker in (("generated", COLORS[4], "x"), ("real", COLORS[0], "o")):
        axes.plot(*points[kinds == kind].T, ls="", ms=4.5, mew=0.9, alpha=0.75, color=color, marker=marker, label=kind)
    axes.legend(fontsize=8)
