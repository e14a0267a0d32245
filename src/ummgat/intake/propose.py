"""Which sequence a series probably is, how sure that is, and why. A proposal for a person to look at, never more.

Two witnesses speak: words (descriptions, names) and physics (repetition, echo and inversion time). `sure` needs both,
or a name that can mean one thing only; where they contradict each other nothing is proposed.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

Sure = Literal["sure", "likely", "unknown"]

SCANNING = ("SE", "IR", "GR", "EP", "RM")
"""ScanningSequence: spin echo, inversion recovery, gradient echo, echo planar, research mode."""


@dataclass(frozen=True)
class Facts:
    """What a header or sidecar says about how an image was made. Times in ms; None or empty where nothing is said."""

    description: str = ""
    """SeriesDescription, ProtocolName and SequenceName, one after the other. May hold a name: redact before showing."""
    contrast_agent: str | None = None
    repetition_ms: float | None = None
    echo_ms: float | None = None
    inversion_ms: float | None = None
    scanning: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    b_value: float | None = None
    body_part: str = ""


@dataclass(frozen=True)
class Proposal:
    """A sequence (None if it cannot be told), how sure, and why in words."""

    sequence: str | None
    sure: Sure
    why: str
    contrast_unsaid: bool = False
    """A T1 for which nothing says whether contrast agent was given."""
    other: bool = False
    """It is none of the sequences: its image type says so, or its words do and none of them is for a sequence."""


_B, _E = r"(?<![a-z])", r"(?![a-z])"
_WORDS = {
    "flair": rf"flair|dark[ -]?fluid|{_B}tirm{_E}",
    "swi": rf"{_B}(swi|swan|sw|venobold){_E}",
    "dwi": rf"{_B}(dwi|diff|diffusion|tracew?|trace){_E}|{_B}b[ =]?(800|1000|1200)(?!\d)",
    "asl": rf"{_B}(p|pc|3d)?asl{_E}|{_B}cbf{_E}",
    "hardi": rf"{_B}(hardi|fa|fractional[ -]?anisotropy){_E}(?!\d)",
    "t1": rf"t1(?!\d|[ -]?map|[ -]?rho)|mp[ -]?rage|{_B}(bravo|f?spgr|vibe|flash){_E}",
    "t2": r"t2(?!\d|\*|[ -]?star|[ -]?map)",
}
_OTHERS = {
    "localizer": rf"{_B}(loc|locali[sz]er|scout|survey|3[ -]?pl(ane)?|aahscout|aahead[ -]?scout){_E}",
    "T2*": rf"t2[ -]?\*|t2[ -]?star|t2[ -]?(gre|ge|ffe|fl2d|me2d){_E}|{_B}gre[ -]?t2|{_B}(hemo|medic){_E}",
    "proton density": rf"{_B}(pd|pdw|proton|dp){_E}",
    "diffusion coefficient": rf"{_B}e?adc{_E}",
    "perfusion": rf"{_B}(perf|perfusion|dsc|dce|rcbv|cbv|mtt|ttp|rcbf){_E}",
    "angiography": rf"{_B}(tof|mra|angio|venogram){_E}",
    "functional": rf"{_B}(bold|fmri|rest|task){_E}",
    "projection": rf"{_B}(mip|minip|mnip|proj){_E}",
    "phase": rf"{_B}(pha|phase){_E}",
    "real or imaginary part": rf"{_B}(imag|imaginary|part[ -]?real|real[ -]?part){_E}",
    "no diffusion weighting": rf"{_B}b[ =]?0+(?![\d/-])(?!.*\d{{3,4}})",
    "synthetic contrast": rf"{_B}(synthetic|symri){_E}",
    "map": rf"{_B}(t1|t2|qsm|r2|b0|b1|field)[ -]?map",
    "fat-suppressed inversion": rf"{_B}stir{_E}",
    "double inversion": rf"{_B}dir{_E}",
    "balanced": rf"{_B}(ciss|fiesta|truefisp|trufi){_E}",
    "subtraction": rf"{_B}(sub|subtraction){_E}",
}
_AGENT = r"(km|kontrast\w*|contrast|gd|gado?\w*|c|ce)"
_PRE = (
    rf"{_B}((ohne|without|w/o|wo|no|non|sans|pre|vor)[ -]?{_AGENT}{_E}|pre{_E}|nati(v|ve|f){_E}|unenhanced|plain{_E})"
)
_POST = (
    rf"{_B}(ce|gd|gad|gado\w*|post(?![ -]?op){_E}|postcontrast|km|kontrast\w*|contrast|t1c){_E}"
    rf"|\+ ?(c|gd|km){_E}|{_B}c\+"
)
_NO_AGENT = ("", "none", "no", "n", "-", "0", "nein", "ohne")
_PARAMETRIC = ("dwi", "asl", "hardi")
_NEVER = ("phase", "real or imaginary part", "no diffusion weighting", "localizer", "diffusion coefficient")
"""What no image of a sequence is, be it computed from others or not."""
_NAMED_TYPES = {
    **dict.fromkeys(("P", "PHASE", "PHASE MAP"), "phase"),
    **dict.fromkeys(("R", "REAL", "I", "IMAGINARY"), "real or imaginary part"),
    **dict.fromkeys(("T1 MAP", "T2 MAP", "T2 STAR MAP", "R2 STAR MAP", "B0 MAP", "B1 MAP", "FIELD MAP"), "map"),
    "LOCALIZER": "localizer",
    "ADC": "diffusion coefficient",
    "MIP": "projection",
    "MINIP": "projection",
    "PROJECTION IMAGE": "projection",
}


def says_other(text: str) -> str | None:
    """What lower-case text says an image is that is none of the sequences, although their letters may be in it."""
    return next((name for name, pattern in _OTHERS.items() if re.search(pattern, text)), None)


def propose(facts: Facts, named: str | None = None, where: str = "description") -> Proposal:
    """Propose a sequence.

    Parameters
    ----------
    facts : Facts
    named : str, optional
        Sequence that a naming scheme states outright; then only contradictions are looked for.
    where : str
        What the words were read from, for the reasons.
    """
    text = re.sub(r"[_.:,;()\[\]]+", " ", facts.description.lower())
    physics, measured = _physics(facts)
    if named is not None:
        return _named(named, facts, text, physics, measured)
    other = says_other(text) or _other_type(facts)
    if other is not None and not (other == "projection" and "t1" in text):
        certain = no_sequence(facts) is not None or not words_of(text)
        return Proposal(None, "unknown", f"{where} or image type speaks of {other}", other=certain)
    found = words_of(text)
    if found == {"t1", "flair"} and physics & {"t1", "flair"}:
        found = physics & {"t1", "flair"}  # "T1 FLAIR" is a T1 with a short inversion time
    if len(found) > 1:
        return Proposal(None, "unknown", f"{where} has words for {' and '.join(sorted(found))}")
    if not found:
        return _by_physics(facts, physics, measured, text)
    sequence = found.pop()
    said = f"{where} says {sequence}"
    if facts.b_value == 0 and sequence == "dwi":
        return Proposal(None, "unknown", f"{said}, but the b-value is 0")
    if sequence in ("t1", "t2", "flair"):
        if physics and not _agree(sequence, physics, facts):
            return Proposal(None, "unknown", f"{said}, but {measured} looks like {' or '.join(sorted(physics))}")
        sure: Sure = "sure" if physics else "likely"
    else:
        sure = "sure" if physics and (sequence == "asl" or sequence in physics) else "likely"
    proposal = Proposal(sequence, sure, f"{said}; {measured}" if measured else said)
    if sequence == "t1":
        proposal = _with_contrast(proposal, facts, text)
    if "DERIVED" in facts.image_type and sequence not in _PARAMETRIC and proposal.sure == "sure":
        proposal = replace(proposal, sure="likely", why=f"{proposal.why}; image type says derived")
    return proposal


def no_sequence(facts: Facts) -> str | None:
    """What a header's image type says that an image of no sequence is: a phase, a part of complex values, a localizer,
    an ADC.
    """
    other = _other_type(facts)
    return other if other in _NEVER else None


def _other_type(facts: Facts) -> str | None:
    """What the image type says an image is that is no magnitude image of a sequence, as P of a phase; Philips writes
    P_FFE.
    """
    parts = [part.strip().replace("_", " ") for part in facts.image_type]
    parts += [part.partition(" ")[0] for part in parts if re.fullmatch(r"[PRI] (SE|FFE|IR|GE|TSE|TFE|EPI)", part)]
    return next((_NAMED_TYPES[part] for part in parts if part in _NAMED_TYPES), None)


def _named(named: str, facts: Facts, text: str, physics: set[str], measured: str) -> Proposal:
    """Believe a name unless words of the header, its times or its contrast agent contradict it."""
    base = "t1" if named == "t1ce" else named
    words = words_of(text)
    against = ""
    other = says_other(text) or _other_type(facts)
    if (
        other is not None and not (other == "projection" and base in ("t1", "swi")) and named not in _PARAMETRIC
    ) or other in _NEVER:
        against = f"description or image type speaks of {other}"
    elif physics and base in ("t1", "t2", "flair") and not _agree(base, physics, facts):
        against = f"{measured} looks like {' or '.join(sorted(physics))}"
    elif words and base not in words:
        against = f"the header has words for {' and '.join(sorted(words))}"
    elif named == "t1" and _with_contrast(Proposal("t1", "sure", ""), facts, text).sequence != "t1":
        against = "the header speaks of contrast agent"
    if against:
        return Proposal(None, "unknown", f"named {named}, but {against}")
    return Proposal(named, "sure", f"named {named}")


def words_of(text: str) -> set[str]:
    """Sequences that lower-case `text` has words for; t2 is no second one beside what is named T2-FLAIR, nor t1 beside
    parametric maps.
    """
    found = {name for name, pattern in _WORDS.items() if re.search(pattern, text)}
    if "flair" in found and "t1" not in found:
        found.discard("t2")
    if "hardi" in found:
        found.discard("dwi")
    return found


def _with_contrast(proposal: Proposal, facts: Facts, text: str) -> Proposal:
    """Decide between t1 and t1ce, from words and the agent's tag; contradictions are left open."""
    rest = re.sub(_PRE, " ", text)
    before, after = rest != text, re.search(_POST, rest) is not None
    agent = None if facts.contrast_agent is None else facts.contrast_agent.strip().lower() not in _NO_AGENT
    if before and (after or agent):
        return Proposal(None, "unknown", f"{proposal.why}; signs both for and against contrast agent")
    if after or agent:
        if agent is False and (facts.contrast_agent or "").strip():
            return Proposal(None, "unknown", f"{proposal.why}; a word for contrast, but the agent's tag denies it")
        reason = " and ".join(["a word for contrast"] * after + ["ContrastBolusAgent is set"] * (agent is True))
        return Proposal("t1ce", proposal.sure, f"{proposal.why}; {reason}")
    if before or (agent is False and (facts.contrast_agent or "").strip()):
        return replace(proposal, why=f"{proposal.why}; said to be without contrast agent")
    return replace(
        proposal,
        sure="likely",
        why=f"{proposal.why}; nothing says whether contrast agent was given",
        contrast_unsaid=True,
    )


def _by_physics(facts: Facts, physics: set[str], measured: str, text: str) -> Proposal:
    """Propose from the times alone: likely at most."""
    if len(physics) != 1 or not physics <= {"t1", "t2", "flair"}:
        return Proposal(
            None, "unknown", f"no word known; {measured}" if measured else "neither words nor times are known"
        )
    proposal = Proposal(next(iter(physics)), "likely", f"no word known, but {measured}")
    return _with_contrast(proposal, facts, text) if proposal.sequence == "t1" else proposal


def _physics(facts: Facts) -> tuple[set[str], str]:
    """Sequences that fit the times of a brain at 1.5 or 3 T, empty if nothing can be said, and the times in words."""
    tr, te, ti = facts.repetition_ms, facts.echo_ms, facts.inversion_ms
    scanning = set(facts.scanning)
    measured = ", ".join(f"{n} {v:g} ms" for n, v in (("TR", tr), ("TE", te), ("TI", ti)) if v)
    if scanning:
        measured = f"{'/'.join(facts.scanning)} with {measured}" if measured else "/".join(facts.scanning)
    found: set[str] = set()
    if tr is None or te is None:
        pass
    elif "EP" in scanning:
        found = {"dwi", "asl", "hardi"}
    elif ti and ti >= 1500 and tr >= 4000:
        found = {"flair"}
    elif ti and 300 <= ti < 1500 and te < 40:
        found = {"t1"}
    elif ti and ti < 300 and tr > 1500:
        found = {"STIR"}
    elif "GR" in scanning and "SE" not in scanning:
        found = {"t1"} if te < 12 and tr < 3500 else {"swi", "T2*"}
    elif te < 40:
        found = {"t1"} if tr <= 1300 else {"proton density"}
    elif te >= 60 and tr >= 1200:
        found = {"t2"}
    return found, measured


def _agree(sequence: str, physics: set[str], facts: Facts) -> bool:
    """Whether the times fit; a FLAIR whose header omits the inversion time looks like a T2 with a long repetition."""
    no_inversion = not facts.inversion_ms and (facts.repetition_ms or 0) >= 4000
    return sequence in physics or (sequence == "flair" and physics == {"t2"} and no_inversion)
