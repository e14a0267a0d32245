"""A model card: what a model is, what it was trained on, how it was chosen, and what its evaluation came to.

After Mitchell et al. 2019, "Model Cards for Model Reporting". All but the notes comes from files; nothing is copied by
hand. It fits two pages: tables that are longer than `LINES` lie beside it as CSV, as every table does, and the settings
as `config.json`.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from ummgat.model.weights import TrainedModel
from ummgat.report.section import Section

LINES = 14
"""Of a table in the card."""


def model_card(
    model: TrainedModel, name: str, facts: Mapping[str, Any], sections: Sequence[Section], notes: str = ""
) -> str:
    """Markdown.

    Parameters
    ----------
    model : TrainedModel
    name : str
        What to call it.
    facts : mapping
        Of the report, as `facts.json` has them.
    sections : sequence of Section
        Of the report.
    notes : str
        Markdown of the person who publishes it: licence, data, known faults.

    Raises
    ------
    ValueError
        The evaluation is of another model.
    """
    measured = facts["settings"].get("model")
    if measured != model.hash:
        raise ValueError(
            f"Evaluation is of another model: {name}. Found results of {measured}; expected {model.hash}, the model "
            f"given. Give the model that was evaluated, or evaluate this one."
        )
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    template = resources.files("ummgat").joinpath("report", "card.md.j2").read_text(encoding="utf-8")
    shown = environment.from_string(template).render(
        model=model, name=name, facts=facts, sections=sections, notes=notes.strip(), lines=LINES
    )
    return shown.strip() + "\n"


def _cell(value: object) -> str:
    """Text of a table's cell; nothing in it becomes markup."""
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
