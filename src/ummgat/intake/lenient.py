"""JSON that other programs wrote a little wrong, for where only a fact or a flag is wanted of it."""

import codecs
import json
import re
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)
_GENERATED = re.compile(r'"generated"\s*:\s*(true|1\b)|"kind"\s*:\s*"(copied|generated|fused)"', re.IGNORECASE)


def lenient_text(content: bytes) -> str:
    """Text in the encoding that its first bytes show, else UTF-8 with replacements.

    Examples
    --------
    >>> lenient_text('{"a": 1}'.encode("utf-16")), lenient_text('{"a": 1}'.encode("utf-16-le"))
    ('{"a": 1}', '{"a": 1}')
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:4]:
        # JSON starts with an ASCII character, so zeros tell the order of bytes.
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    return content.decode(encoding or "utf-8", errors="replace")


def lenient_json(content: bytes) -> Any:
    r"""Read JSON that may have a byte-order mark, another Unicode encoding, line ends in strings, or commas before a
    bracket.

    Raises
    ------
    ValueError
        It is no JSON even so, or nested too deep.

    Examples
    --------
    >>> lenient_json(b'\xef\xbb\xbf{"a": [1, 2,], "b": "x,}",}')
    {'a': [1, 2], 'b': 'x,}'}
    """
    text = lenient_text(content)
    try:
        try:
            return json.loads(text, strict=False)
        except ValueError:
            return json.loads(_COMMA.sub(lambda match: match[1] or "", text), strict=False)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def says_generated(content: bytes) -> bool:
    """Whether text that is no JSON still has the mark of a generated image in it."""
    return _GENERATED.search(lenient_text(content)) is not None
