"""Every knob of a run: typed, read from TOML, unknown keys refused, and saved resolved beside every result."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PRESETS = ("paper", "fine", "small", "tiny")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """What a training slice is."""

    spacing_mm: float = Field(1.0, gt=0, description="voxel size the cohort must have been prepared at")
    crop: tuple[int, int] = Field((176, 176), description="rows, columns of a training slice; a training crop only")
    min_brain: float = Field(0.1, ge=0, le=1, description="a slice trains if its brain covers this share of the crop")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    lesion_share: float = Field(0.5, ge=0, le=1, description="share of drawn slices that show a lesion, if any do")
    height_window: float = Field(
        1.0, gt=0, le=1, description="a reference slice lies within this part of the brain height from its source"
    )
    augment: float = Field(0.0, ge=0, le=1, description="share of slices whose tone, shading and noise are changed")
    warp: float = Field(0.0, ge=0, le=1, description="share of slices that are turned, scaled and shifted a little")
    atlas_dropped: float = Field(0.1, ge=0, le=1, description="share of pairs in which the atlas is not shown to G")
    atlas_shifted: float = Field(0.15, ge=0, le=1, description="share of pairs in which it is badly registered")


class ModelConfig(_Section):
    """Sizes of the four networks."""

    generator: Literal["swin_unet", "convnext_unet", "attention_unet"] = "swin_unet"
    width: int = Field(64, ge=4, description="channels at the finest token scale; doubles at each coarser one")
    depths: tuple[int, ...] = Field((2, 2, 2), description="blocks per scale, finest first; the last is the bottleneck")
    patch: int = Field(2, ge=1, description="pixels per token side")
    window: int = Field(11, ge=2, description="tokens per attention window side")
    heads: int = Field(2, ge=1, description="attention heads at the finest scale; doubles at each coarser one")
    pixel_width: int = Field(16, ge=4, description="channels of the full-resolution path")
    code_dim: int = Field(64, ge=2)
    latent_dim: int = Field(16, ge=1)
    mapper_width: int = Field(512, ge=8)
    encoder_widths: tuple[int, ...] = (32, 64, 128, 256)
    encoder_pool: int = Field(1, ge=1, description="pixels per side that E sees as one: a code needs no finer detail")
    discriminator_widths: tuple[int, ...] = (32, 64, 128, 256)
    discriminator_position: bool = Field(False, description="give D each pixel's place relative to the brain")
    discriminator_statistics: bool = Field(False, description="add a logit from intensity histograms per zone to D")
    atlas: bool = Field(False, description="show G what the population's atlas expects; see decision 0015")
    guide_window: int = Field(7, ge=1, description="pixels over which the atlas takes the edges of the source; odd")
    neighbours: bool = Field(False, description="show G the planes above and below")
    gate: Literal["off", "empty", "code"] = Field(
        "off", description="G estimates where lesion is, and draws there by the lesion code; empty: without the code"
    )

    @property
    def unit(self) -> int:
        """Pixels per side of the coarsest token: sides of a training slice are multiples of it."""
        return self.patch * 2 ** (len(self.depths) - 1)


class LossConfig(_Section):
    """Weights of the loss terms (SPEC: all 1 in the paper, no diversity loss)."""

    adversarial: float = Field(1.0, ge=0)
    style: float = Field(1.0, ge=0)
    cycle: float = Field(1.0, ge=0)
    lesion: float = Field(1.0, ge=0, description="lesion-aware module; 0 switches it off")
    structure: float = Field(0.0, ge=0, description="local structure kept, contrast free; not in the paper")
    detail: float = Field(0.0, ge=0, description="as much local detail as a real image has; not in the paper")
    relation: float = Field(0.0, ge=0, description="likeness to the population's intensity curves; not in the paper")
    relation_kept: float = Field(0.0, ge=0, le=1, description="share of `relation` that stays after the opening")
    labels: float = Field(
        0.0, ge=0, description="lesions as bright as their label asks, cost-sensitive; not in the paper"
    )
    label_threshold: float = Field(
        0.15, gt=0, le=0.5, description="probability of enhancing tumour at which half of its brightness is drawn"
    )
    segmentation: float = Field(0.0, ge=0, description="G finds the annotated lesion in its source; not in the paper")
    back: float = Field(
        0.0, ge=0, description="back-translation: a real image from its own translation; not in the paper"
    )
    own: float = Field(
        0.0, ge=0, description="an image from itself in another tone, by that tone's code; not in the paper"
    )
    contrast: float = Field(
        0.0, ge=0, description="codes differ between volumes and agree within one; not in the paper"
    )
    pairs: float = Field(0.0, ge=0, description="true images where a subject has both; schedule `mixed` only")
    opening: tuple[float, float] = Field(
        (0.0, 0.0),
        description="shares of the run: until the first `relation` leads alone, by the second all weights are in",
    )
    diversity: float = Field(0.0, ge=0)
    r1_gamma: float = Field(1.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: Any) -> Any:
        """Files of earlier versions name an ablation that is gone; switched off, as it was by default, it changes
        nothing.
        """
        if isinstance(values, dict) and values.get("lesion_apart") is False:
            return {key: value for key, value in values.items() if key != "lesion_apart"}
        return values

    @model_validator(mode="after")
    def _in_order(self) -> "LossConfig":
        begin, end = self.opening
        if not (0 <= begin < end <= 1 or (begin, end) == (0, 0)):
            raise ValueError(
                f"loss.opening {self.opening} must be two shares of the run in rising order, or 0 and 0 for none"
            )
        return self


class TrainConfig(_Section):
    """The loop."""

    iterations: int = Field(20_000, ge=1)
    batch: int = Field(8, ge=1)
    lr_generator: float = Field(1e-4, gt=0)
    lr_discriminator: float = Field(1e-4, gt=0)
    lr_encoder: float = Field(1e-4, gt=0)
    lr_mapper: float = Field(1e-4, gt=0)
    lr_decay_from: float = Field(1.0, ge=0, le=1, description="share of the run after which rates fall linearly to 0")
    betas: tuple[float, float] = (0.0, 0.99)
    weight_decay: float = Field(1e-4, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    schedule: Literal["literal", "alternating", "mixed", "paired"] = Field(
        "literal", description="see `train.step`; mixed: alternating, and true pairs where a subject has them"
    )
    d_real: Literal["source", "reference"] = Field(
        "source", description="real images that D sees: the sources, or the references (same domain as the fakes)"
    )
    r1_every: int = Field(1, ge=1, description="R1 on every n-th discriminator step, weighted n times")
    cycle_every: int = Field(1, ge=1, description="cycle loss on every n-th generator step, weighted n times")
    back_every: int = Field(2, ge=1, description="back-translation on every n-th step, weighted n times")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    devices: int = Field(1, ge=1)
    threads: int = Field(0, ge=0, description="CPU threads per process; 0 = all cores divided by processes")
    seed: int = 0
    checkpoint_minutes: float = Field(5.0, gt=0)
    validate_every: int = Field(500, ge=1)
    log_every: int = Field(20, ge=1)


class Config(_Section):
    """A whole run. `Config()` is not a preset; presets are in the `configs` folder of the package."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        unit = self.model.unit
        if any(side % unit for side in self.data.crop):
            raise ValueError(
                f"data.crop {self.data.crop} must be divisible by patch x 2^(scales-1) = {unit}, "
                "so that training wastes nothing on padding"
            )
        return self


def load_config(name: str | Path) -> Config:
    """Read a preset by name, or a TOML file by path.

    Raises
    ------
    FileNotFoundError
        If it is neither a preset nor a file.
    ValueError
        If the TOML is broken or has unknown or invalid settings; all of them are listed.
    """
    if str(name) in PRESETS:
        text = resources.files("ummgat").joinpath("configs", f"{name}.toml").read_text(encoding="utf-8")
    else:
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(
                f"Config is missing: {path}. Found no file; expected a TOML file or a preset ({', '.join(PRESETS)}). "
                "Check the name."
            )
        text = path.read_text(encoding="utf-8")
    try:
        return Config.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"Config is not valid TOML: {name}. Found {error}; expected TOML. Correct that line."
        ) from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(str(p) for p in e['loc']) or 'config'}: {e['msg']}" for e in error.errors())
        known = ", ".join(
            f"{section}.{key}"
            for section, field in Config.model_fields.items()
            for key in type(field.default).model_fields
        )
        raise ValueError(
            f"Config is not valid: {name}. Found {found}; expected only {known}. Correct these."
        ) from error
