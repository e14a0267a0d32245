"""Names that are safe as a folder on any system and as part of a domain."""

from ummgat.core.paths import is_plain


def check_name(name: str, what: str, where: str) -> str:
    """Return `name` if it can be a folder name, else raise ValueError.

    Parameters
    ----------
    name : str
    what : str
        "subject" or "center", for the message.
    where : str
        Where the name comes from, for the message.

    Examples
    --------
    >>> check_name("Klinik München 2", "center", "--center")
    'Klinik München 2'
    """
    if not is_plain(name):
        raise ValueError(
            f"Unsafe {what} name: {where}. Found {name!r}; expected 1 to 120 characters that do not start or end with "
            f"a "
            f'dot or a space and contain none of / \\ : * ? " < > |. Rename the {what}.'
        )
    return name
