"""The leak guard: nobody is tested by a segmenter that trained on them."""

from collections.abc import Mapping, Sequence

from ummgat.core.study import Study
from ummgat.segment.contract import Segmenter
from ummgat.segment.folds import CrossFitted


def require_unseen(segmenters: Mapping[str, Segmenter | CrossFitted], studies: Sequence[Study]) -> list[str]:
    """Refuse segmenters that trained on one of `studies`.

    Returns
    -------
    list of str
        Segmenters that do not say on whom they were trained, as foreign ones; whether these have seen the studies
        cannot be checked.

    Raises
    ------
    ValueError
        A segmenter names one of the studies among its training subjects, or no fold of a cross-fitted one held it back.
    """
    silent = []
    for name, segmenter in segmenters.items():
        if isinstance(segmenter, CrossFitted):
            for study in studies:
                segmenter.of(study.subject)  # raises unless exactly one fold held it back
            continue
        trained_on = (getattr(segmenter, "training", None) or {}).get("subjects")
        if not trained_on:
            silent.append(name)
            continue
        seen = sorted({s.subject for s in studies} & set(trained_on))
        if seen:
            raise ValueError(
                f"Segmenter was trained on subjects it would be tested on: {name}. Found {', '.join(seen)}; expected "
                f"none. Train it on other subjects, cross-fit with --folds, or choose another draw."
            )
    return silent
