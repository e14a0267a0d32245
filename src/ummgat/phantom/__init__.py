"""Synthetic patients: anatomy, tumours, signal, scanners, and studies of them on disk.

anatomy (MNI152 deformed per subject, or ellipsoids) → tumour (glioma or meningioma, mass effect) → signal (textbook
equations per sequence) → scanner (protocol, shading, noise, resolution) → write (folders as in BraTS or UCSF-PDGM,
truth, split).
"""

from ummgat.phantom.anatomy import Frame, analytic_frame, brats_frame
from ummgat.phantom.presets import DEMO, MENINGIOMA, PRESETS, TEN_DOMAIN, TINY, tiny_cohort
from ummgat.phantom.scanner import Scanner, make_scanner
from ummgat.phantom.subject import PhantomSubject, make_subject
from ummgat.phantom.write import PhantomConfig, write_phantom

__all__ = [
    "DEMO",
    "MENINGIOMA",
    "PRESETS",
    "TEN_DOMAIN",
    "TINY",
    "Frame",
    "PhantomConfig",
    "PhantomSubject",
    "Scanner",
    "analytic_frame",
    "brats_frame",
    "make_scanner",
    "make_subject",
    "tiny_cohort",
    "write_phantom",
]
