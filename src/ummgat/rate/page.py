"""The page of a blinded reading: one HTML file that needs no network and holds no key."""

import base64
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined

from ummgat.rate.make import page_name
from ummgat.rate.score import ANSWER_COLUMNS, FORMAT, QUALITIES, WORDS


def rate_page(images: Sequence[bytes]) -> str:
    """Write the page for images in this order.

    Parameters
    ----------
    images : sequence of bytes
        PNG without metadata. This function is given nothing else, so nothing else can get into the page.

    Returns
    -------
    str
        HTML.
    """
    template = resources.files("ummgat").joinpath("rate", "rate.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        page=page_name(images),
        images=[base64.b64encode(image).decode("ascii") for image in images],
        columns=list(ANSWER_COLUMNS),
        format=FORMAT,
        words=list(WORDS),
        qualities=list(range(1, QUALITIES + 1)),
    )
