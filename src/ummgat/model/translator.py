"""Translate between the sequences of one study: registers the atlas once, pools what its sources see of lesions."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ummgat.core.domain import Domain
from ummgat.core.normalise import scale_to_uint8
from ummgat.model.atlas import LEAST_SIMILARITY, Brought, Placed, bring, coarse_box, place
from ummgat.model.guide import guided
from ummgat.model.lean import leant
from ummgat.model.masked import brain_mask, to_unit
from ummgat.model.translate import Beside, Direction, lesion_posterior, translate_volume
from ummgat.model.weights import TrainedModel

log = logging.getLogger(__name__)

Volume = NDArray[np.uint8]
Enhancement = Literal["none", "expected"]


class Translator:
    """What a model can say of one study, with the work that directions share done once and when it is needed.

    Parameters
    ----------
    model : TrainedModel
    volumes : mapping of sequence → ndarray (plane, row, column), uint8
        Acquired sequences on one grid, at the model's voxel size. What is not among them is not known to any answer.
    center : str
    enhancement : str
        `expected` or `none`, see `ummgat.completion.fill.Request`.
    placements : dict, optional
        Registrations of the same images to this atlas by other translators of the study; new ones are added.
    """

    def __init__(
        self,
        model: TrainedModel,
        volumes: Mapping[str, Volume],
        center: str,
        enhancement: Enhancement = "expected",
        placements: dict[tuple[str, str], Placed] | None = None,
    ) -> None:
        self.model = model
        self.placements = {} if placements is None else placements
        known = {q: v for q, v in volumes.items() if Domain(center, q) in model.table}
        self.volumes = {q: stretched(v) for q, v in known.items()} if model.by_percentiles else known
        self.center = center
        self.similarity: dict[str, float] = {}
        """Sequence → correlation with the registered atlas."""
        self._brought: Brought | None = None
        self._registered = False
        self._pooled: tuple[Hashable, NDArray[np.float32]] | None = None
        beside = Beside.of(model.table, model.config, model.lesions, model.lesion_spreads)
        self._beside = beside if enhancement == "expected" else beside.without_enhancement()

    def domain(self, sequence: str) -> int:
        """Index of a sequence of this study's center among the model's domains."""
        return self.model.table.index(Domain(self.center, sequence))

    def brought(self) -> Brought | None:
        """The atlas at the study's voxels: registered by each source alone, their fields averaged. None without an
        atlas, or where no registration succeeded.
        """
        if not self._registered:
            self._registered = True
            atlas = self.model.atlas
            placed = [] if atlas is None else self._placed()
            if atlas is not None and placed:
                points = np.asarray(np.mean([p.points for p in placed], axis=0), np.float32)
                self._brought = bring(atlas, placed[0]._replace(points=points))
        return self._brought

    def _placed(self) -> list[Placed]:
        atlas, spacing = self.model.atlas, self.model.config.data.spacing_mm
        assert atlas is not None
        brain = np.any([v > 0 for v in self.volumes.values()], axis=0)
        box = coarse_box(np.asarray(brain), spacing)
        found = []
        for sequence, volume in self.volumes.items():
            mean = atlas.means[self.domain(sequence)]
            if mean.any():
                key = sequence, str(box)
                if key not in self.placements:
                    try:
                        self.placements[key] = place(volume, spacing, mean, atlas.brain, box)
                    except RuntimeError as error:  # of SimpleITK: a brain of few planes, for example
                        self.similarity[sequence] = 0.0
                        log.warning("Atlas could not be registered to %s, left out: %s", sequence, _last_line(error))
                        continue
                placed = self.placements[key]
                self.similarity[sequence] = round(placed.similarity, 3)
                if placed.similarity >= LEAST_SIMILARITY:
                    found.append(placed)
                else:
                    log.warning("Atlas did not fit %s: similarity %.2f, left out", sequence, placed.similarity)
        return found

    def posterior(self, codes: Mapping[str, Tensor], only: Sequence[int] | None = None) -> NDArray[np.float32] | None:
        """Probabilities of background, NCR, ED and ET from all sources together: (4, plane, row, column). None without
        a gate.

        A product of experts: each sees one sequence and never saw a pair, so what they say is multiplied. They are not
        independent, hence `BRAKE`. The last answer is kept: directions to several targets ask for the same.

        Parameters
        ----------
        codes : mapping of sequence → Tensor (code_dim,)
            Of the sources that count.
        only : sequence of int, optional
            Planes to look at; elsewhere all is background.
        """
        generator = self.model.nets.generator
        if generator.gate is None or not codes:
            return None
        ordered = {
            q: codes[q] for q in self.volumes if q in codes
        }  # targets rank their sources differently: one sum for all
        key = (
            tuple((q, code.cpu().numpy().tobytes()) for q, code in ordered.items()),
            None if only is None else tuple(only),
        )
        if self._pooled is None or self._pooled[0] != key:
            self._pooled = key, self._pool(ordered, only)
        return self._pooled[1]

    def _pool(self, codes: Mapping[str, Tensor], only: Sequence[int] | None) -> NDArray[np.float32]:
        generator = self.model.nets.generator
        beside = self._beside._replace(brought=self.brought())
        total: NDArray[np.float32] | None = None
        prior = np.log(np.array(PRIOR, np.float32))[:, None, None, None]
        for sequence, code in codes.items():
            volume = self.volumes[sequence]
            seen = lesion_posterior(generator, volume, code, beside, self.domain(sequence), only=only)
            gain = np.where(volume > 0, np.log(np.maximum(seen, 1e-5)) - prior, 0)
            total = gain if total is None else total + gain
        assert total is not None
        score = np.exp(prior + total / np.float32(len(codes) ** BRAKE))
        return np.asarray(score / score.sum(0), np.float32)

    def expected(self, target: Domain, only: Sequence[int] | None = None, source: str | None = None) -> Volume | None:
        """The atlas alone, with the edges of a source (the first): the substitute that any translation must beat. None
        without.

        With `only`, these planes alone, in their order.
        """
        brought = self.brought()
        if brought is None or not self.volumes:
            return None
        volume = self.volumes[source] if source is not None else next(iter(self.volumes.values()))
        planes = range(len(volume)) if only is None else only
        out = np.zeros((len(planes), *volume.shape[1:]), np.uint8)
        index, window = self.model.table.index(target), self.model.config.model.guide_window
        _, rows, columns = brought.box
        for i, plane in enumerate(planes):
            if not volume[plane].any():
                continue
            shown = np.zeros(volume.shape[1:], np.float32)
            shown[rows, columns] = brought.plane(brought.means[[index]], int(plane))[0] / np.float32(127.5)
            x = torch.from_numpy(to_unit(volume[plane]))[None, None]
            image = guided(x, torch.from_numpy(shown)[None, None], brain_mask(x), window)[0, 0].numpy()
            out[i] = np.where(volume[plane] > 0, np.clip(np.rint(image * 127.5), 1, 255), 0)
        return out

    def translate(
        self,
        source: str,
        target: Domain,
        codes: tuple[Tensor, Tensor],
        flicker: float,
        posterior: NDArray[np.float32] | None = None,
        only: Sequence[int] | None = None,
    ) -> Volume:
        """Translate one acquired sequence to a domain.

        Parameters
        ----------
        source : str
        target : Domain
        codes : (Tensor (code_dim,), Tensor (code_dim,))
            Of target and source.
        flicker : float
            See `ummgat.model.slice_profile.settled`.
        posterior : ndarray (4, plane, row, column), optional
            Of lesion labels; None: the source speaks for itself.
        only : sequence of int, optional
            Planes to translate, see `translate_volume`.
        """
        beside = self._beside._replace(brought=self.brought(), posterior=posterior)
        direction = Direction(self.domain(source), self.model.table.index(target))
        out = translate_volume(
            self.model.nets.generator,
            self.volumes[source],
            *codes,
            flicker,
            beside=beside,
            direction=direction,
            only=only,
        )
        out = self._leant(out, source, target, codes[1], posterior, only)
        return scale_to_uint8(out, out > 0, str(target)).data if self.model.by_percentiles else out

    def _leant(
        self,
        image: Volume,
        source: str,
        target: Domain,
        code: Tensor,
        posterior: NDArray[np.float32] | None,
        only: Sequence[int] | None,
    ) -> Volume:
        leanings = self.model.leanings
        share = 0.0 if leanings is None else float(leanings[self.domain(source), self.model.table.index(target)])
        expected = self.expected(target, only, source) if share else None
        if expected is None:
            return image
        posterior = self.posterior({source: code}, only) if posterior is None else posterior
        planes = np.arange(len(image)) if only is None else np.asarray(only)
        out = image.copy()
        out[planes] = leant(image[planes], expected, None if posterior is None else posterior[0][planes], share)
        return out


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def stretched(volume: Volume) -> Volume:
    """A prepared image as images were scaled before 0.2: 0.5th and 99.5th percentile of the brain at 1 and 255."""
    brain = volume > 0
    low, high = np.percentile(volume[brain], (0.5, 99.5))
    grey = 1 + (volume.astype(np.float32) - low) * (254 / max(high - low, 1.0))
    return np.where(brain, np.clip(np.rint(grey), 1, 255), 0).astype(np.uint8)


BRAKE = 0.8
"""Evidence of n sources counts n to the power of one minus this as much as that of one: by likelihood on selection
subjects each of three counts .3 to .4, where independent ones would count 1."""

PRIOR: Sequence[float] = (0.90, 0.02, 0.06, 0.02)
"""Share of background, NCR, ED and ET in the brain of a patient with a glioma, roughly as in the training cohorts."""
