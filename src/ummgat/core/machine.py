"""What this machine and this package bring: weights and templates that came with the package, and devices to compute
on.
"""

import platform
from importlib import resources
from pathlib import Path
from typing import Literal

BUNDLED_MODEL = "fine.safetensors"
"""File in the package's `weights` folder that `ummgat complete` uses without --model. Others there can be asked for by
name: `fine_unpaired`, which saw no pair, and `small`, the earlier 2 mm weights of two centers."""

BUNDLED_SEGMENTER, BUNDLED_DROPOUT = "segmenter.safetensors", "segmenter_dropout.safetensors"
"""Files there that `ummgat evaluate` uses without --segmenter and --dropout."""

BUNDLED_CHECKS = "checks.safetensors"
"""File there by which `ummgat check` judges without --checks."""

BUNDLED_T2 = "segmenter_t2.safetensors"
"""File there that `ummgat cross-center` uses without --segmenter: whole tumour from T2 alone."""

BUNDLED_STRIP = "deepbet.safetensors"
"""File there by which `ummgat prepare --raw` finds the brain in a T1."""

DEVICES = ("auto", "cpu", "cuda", "mps")

_MADE_BY = {
    BUNDLED_MODEL: ("model", "--model", "`ummgat train`"),
    BUNDLED_SEGMENTER: ("segmenter", "--segmenter", "`ummgat train-segmenter`"),
    BUNDLED_DROPOUT: ("segmenter", "--dropout", "`ummgat train-segmenter`"),
    BUNDLED_T2: ("segmenter", "--segmenter", "`ummgat train-segmenter --centers A`"),
    BUNDLED_STRIP: ("brain mask", "--brain-mask", "a skull stripper"),
    BUNDLED_CHECKS: ("file of checks", "--checks", "`ummgat train-checks`"),
}
"""File → what it is, the option that names another, and the command that writes such a file."""


def bundled_file(name: str) -> Path | None:
    """A file in the package's `weights` folder, or None."""
    path = Path(str(resources.files("ummgat"))) / "weights" / name
    return path if path.is_file() else None


def template_file(kind: Literal["t1", "wm", "gm"]) -> Path:
    """The shipped MNI152 map (ICBM 2009a symmetric, Fonov et al. 2011) of T1, white or grey matter: uint8, 1 mm,
    stripped.

    Raises
    ------
    FileNotFoundError
        The installation is not complete.
    """
    path = Path(str(resources.files("ummgat"))) / "templates" / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise FileNotFoundError(
            f"Template is missing: {path}. Found no file; expected the MNI152 map that comes with ummgat. Install "
            f"ummgat again."
        )
    return path


def given_or_bundled(given: str | Path | None, name: str) -> Path:
    """Choose the file that was given, by path or by the bare name of a bundled one, or else the bundled one called
    `name`.

    Raises
    ------
    FileNotFoundError
        None was given, and this package came without.
    """
    if given is not None:
        chosen = Path(given)
        by_name = bundled_file(f"{chosen}.safetensors") if chosen.name == str(given) else None
        return by_name if by_name is not None and not chosen.exists() else chosen
    path = bundled_file(name)
    if path is None:
        what, option, command = _MADE_BY[name]
        raise FileNotFoundError(
            f"No {what} is given: {option}. Found no bundled {name}; expected weights. Give {option} FILE, as "
            f"{command} writes it."
        )
    return path


def choose_device(name: str) -> str:
    """Turn "auto" into "cuda" or "cpu", and check that a named device is there.

    Raises
    ------
    ValueError
        Unknown, or not on this machine.
    """
    if name not in DEVICES:
        raise ValueError(f"Unknown device. Found {name!r}; expected one of {', '.join(DEVICES)}. Choose one of these.")
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    present = devices()
    if name not in present:
        raise ValueError(
            f"Device is not available. Found {', '.join(present)}; expected {name}. Choose one of these, or install a "
            "torch built for your hardware (`ummgat doctor` shows what it sees)."
        )
    return name


def devices() -> dict[str, str]:
    """Name for --device → what it is, of every device that torch sees."""
    import torch

    found = {"cpu": platform.processor() or platform.machine()}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found["cuda"] = ", ".join(f"{p.name} with {gigabytes(p.total_memory)}" for p in names)
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def gigabytes(count: int | None) -> str:
    """Bytes as 12.3 GB."""
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"
