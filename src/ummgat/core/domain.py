"""Domains: (center, sequence) pairs in a fixed order that is saved with every checkpoint.

A network branch is chosen by a domain's index, so the order must never be derived from a folder listing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SEQUENCES = ("t1", "t1ce", "t2", "flair", "swi", "dwi", "asl", "hardi")
"""Every sequence name used inside UMMGAT; file spellings are mapped in `prepare.layouts` only."""


def check_sequence(name: str, where: str) -> str:
    """Return `name` if it is one of `SEQUENCES`, else raise ValueError naming `where`."""
    if name not in SEQUENCES:
        raise ValueError(
            f"Unknown sequence: {where}. Found {name!r}; expected one of {', '.join(SEQUENCES)}. "
            "Correct the name, or map it in the layout."
        )
    return name


@dataclass(frozen=True, order=True)
class Domain:
    """One center's version of one sequence, written `center/sequence`.

    Examples
    --------
    >>> Domain.parse("A/t1ce")
    Domain(center='A', sequence='t1ce')
    >>> str(Domain("A", "t2"))
    'A/t2'
    """

    center: str
    sequence: str

    def __post_init__(self) -> None:
        check_sequence(self.sequence, f"domain of center {self.center!r}")
        if not self.center or "/" in self.center:
            raise ValueError(
                f"Bad center name: domain with sequence {self.sequence}. Found {self.center!r}; "
                "expected a non-empty name without '/'. Rename the center."
            )

    def __str__(self) -> str:
        return f"{self.center}/{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> "Domain":
        """Read `center/sequence`."""
        center, _, sequence = text.rpartition("/")
        return cls(center, sequence)


class DomainTable:
    """An ordered list of domains; the lesion index of domain i is i + n.

    Examples
    --------
    >>> table = DomainTable([Domain("A", "t1"), Domain("A", "t2")])
    >>> table.index(Domain("A", "t2")), table.lesion_index(Domain("A", "t2")), len(table)
    (1, 3, 2)
    """

    def __init__(self, domains: Iterable[Domain]) -> None:
        self.domains = tuple(domains)
        if len(set(self.domains)) != len(self.domains) or not self.domains:
            raise ValueError(
                f"Bad domain table. Found {self.names}; expected one or more distinct domains. Remove the repeats."
            )

    def __len__(self) -> int:
        return len(self.domains)

    def __iter__(self) -> Iterator[Domain]:
        return iter(self.domains)

    def __contains__(self, domain: Domain) -> bool:
        return domain in self.domains

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DomainTable) and self.domains == other.domains

    def __hash__(self) -> int:
        return hash(self.domains)

    def __repr__(self) -> str:
        return f"DomainTable({', '.join(self.names)})"

    @property
    def names(self) -> list[str]:
        """`center/sequence` of every domain, in order; what checkpoints store."""
        return [str(domain) for domain in self.domains]

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "DomainTable":
        """Rebuild a table from `names`."""
        return cls(Domain.parse(name) for name in names)

    @property
    def centers(self) -> list[str]:
        """Center names in order of first appearance."""
        return list(dict.fromkeys(domain.center for domain in self.domains))

    def sequences_of(self, center: str) -> list[str]:
        """Sequences this table knows for `center`, in table order; empty if it knows none."""
        return [domain.sequence for domain in self.domains if domain.center == center]

    def index(self, domain: Domain) -> int:
        """Branch index of `domain`; ValueError listing the known ones otherwise."""
        try:
            return self.domains.index(domain)
        except ValueError:
            raise ValueError(
                f"Unknown target domain. Found {domain}; expected one of {', '.join(self.names)}. "
                "Choose one of these, or train a model that includes it."
            ) from None

    def lesion_index(self, domain: Domain) -> int:
        """Index of the lesion head of `domain` in the sequence encoder."""
        return self.index(domain) + len(self)
