"""Single settings from the command line, over a preset or a file, checked by the same model."""

import json
import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from ummgat.core.config import Config


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Replace settings.

    Parameters
    ----------
    config : Config
        Not changed.
    overrides : sequence of str
        `section.key=value`. The value is TOML; text need not be quoted. The last of several for one setting counts.

    Returns
    -------
    Config
        A new one, or `config` itself without overrides.

    Raises
    ------
    ValueError
        With every bad override, and the known settings.

    Examples
    --------
    >>> with_overrides(Config(), ["train.batch=4", "model.depths=[1, 2]", "train.precision=bf16-mixed"]).model.depths
    (1, 2)
    """
    if not overrides:
        return config
    known = [f"{section}.{key}" for section, values in config for key in type(values).model_fields]
    values = config.model_dump()
    problems = []
    for override in overrides:
        name, equals, text = override.partition("=")
        name = name.strip()
        if not equals or name not in known:
            problems.append(f"{override!r} names no setting" if equals else f"{override!r} without '='")
            continue
        section, _, key = name.partition(".")
        values[section][key] = _parsed(text.strip())
    changed: Config | None = None
    try:
        changed = Config.model_validate(values)
    except ValidationError as error:
        problems += [f"{'.'.join(str(p) for p in e['loc']) or 'together'}: {e['msg']}" for e in error.errors()]
    if problems or changed is None:
        raise ValueError(
            f"Setting is not valid: --set. Found {'; '.join(problems)}; expected section.key=value with one of "
            f"{', '.join(known)}. Correct it."
        )
    return changed


def as_toml(config: Config) -> str:
    """Write a config as TOML that `load_config` reads again."""
    sections = []
    for section, values in config.model_dump(mode="json").items():
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
        sections.append("\n".join([f"[{section}]", *lines]))
    return "\n\n".join(sections) + "\n"


def _parsed(text: str) -> Any:
    """A TOML value, or the text itself where it is none, so that `--set train.precision=bf16-mixed` needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
