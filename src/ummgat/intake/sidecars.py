"""What the JSON beside a NIfTI file says, as dcm2niix and BIDS write it."""

from pathlib import Path
from typing import Any

from ummgat.intake.images import stem_of
from ummgat.intake.lenient import lenient_json
from ummgat.intake.privacy import Identity
from ummgat.intake.propose import SCANNING, Facts

_LIMIT_BYTES = 4_000_000


def read_sidecar(path: Path) -> tuple[Facts, Identity]:
    """Facts and patient from the sidecar of an image; empty if there is none or it is no JSON object.

    BIDS gives times in seconds; here they become ms.
    """
    sidecar = path.with_name(stem_of(path) + ".json")
    try:
        if not sidecar.is_file() or sidecar.stat().st_size > _LIMIT_BYTES:
            return Facts(), Identity()
        value = lenient_json(sidecar.read_bytes())
    except (OSError, ValueError):
        return Facts(), Identity()
    if not isinstance(value, dict):
        return Facts(), Identity()
    words = [str(value.get(name) or "") for name in ("SeriesDescription", "ProtocolName", "SequenceName")]
    agent = value.get("ContrastBolusIngredient") or value.get("ContrastBolusAgent")
    scanning = _texts(value.get("ScanningSequence"))
    facts = Facts(
        description=" ".join(dict.fromkeys(word for word in words if word)),
        contrast_agent=str(agent) if agent else None,
        repetition_ms=_ms(value.get("RepetitionTime")),
        echo_ms=_ms(value.get("EchoTime")),
        inversion_ms=_ms(value.get("InversionTime")),
        scanning=tuple(code for code in SCANNING if code in scanning),
        image_type=tuple(_texts(value.get("ImageType"))),
        body_part=str(value.get("BodyPartExamined") or "").upper(),
    )
    name, number, born = (str(value.get(key) or "") for key in ("PatientName", "PatientID", "PatientBirthDate"))
    return facts, Identity(name, number, born)


def _texts(value: Any) -> list[str]:
    """Codes joined by underscores or backslashes, or a list of them, as a list."""
    parts = value if isinstance(value, list) else str(value or "").replace("\\", "_").split("_")
    return [str(part).upper() for part in parts]


def _ms(value: Any) -> float | None:
    return float(value) * 1000 if isinstance(value, int | float) and not isinstance(value, bool) else None
