"""A run in one small file: the exported model as 16-bit floats, with D, so that training can start from it again."""

from pathlib import Path

from ummgat.core.config import Config
from ummgat.core.draw import load_draw
from ummgat.core.files import read_json
from ummgat.core.tensors import load_tensors, without_prefix
from ummgat.model.atlas import cropped
from ummgat.model.discriminator import Discriminator
from ummgat.model.networks import build_networks
from ummgat.model.weights import TrainedModel, load_model, save_model
from ummgat.train.state import FORMAT


def pack(run: Path, out: Path, model: str = "model.safetensors") -> Path:
    """Write the model of a run, with D of its checkpoint, in half the room or less.

    It is used like any exported model. Rounding to 16 bits changes a generated grey level by a fraction of one;
    evaluate the packed file, it has a hash of its own. Optimizers are left out, so a run that starts from it
    (`ummgat train --start-from`) is a new one, not an exact continuation.

    Parameters
    ----------
    run : Path
        Folder of `ummgat train`.
    out : Path
        New file.
    model : str
        Which export: `model.safetensors` (best by validation) or `last.safetensors`. D is that of the checkpoint.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    FileNotFoundError, ValueError
        No run, or a damaged one.
    """
    trained = load_model(run / model)
    config = Config.model_validate(read_json(run / "config.json"))
    tensors, _ = load_tensors(run / "checkpoint.safetensors", FORMAT)
    nets = build_networks(config.model, len(load_draw(run / "draw.json").domains), seed=0)
    assert nets.discriminator is not None
    nets.discriminator.load_state_dict(without_prefix("nets.discriminator", tensors))
    return save_packed(out, trained, nets.discriminator)


def save_packed(out: Path, model: TrainedModel, discriminator: Discriminator) -> Path:
    """Export with 16-bit floats and D, the atlas in a frame no larger than it need be."""
    model.nets.discriminator = discriminator
    if model.atlas is not None:
        model.atlas = cropped(model.atlas)
    save_model(out, model, half=True)
    return out
