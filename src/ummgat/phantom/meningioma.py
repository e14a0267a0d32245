"""Another tumour for the phantom: a meningioma, which grows from the dura and pushes the brain instead of growing into
it.
"""

import numpy as np

from ummgat.phantom.anatomy import Mass, Shape
from ummgat.phantom.signal import Tissue
from ummgat.phantom.tumour import TumourPlan

# Like grey matter before contrast agent, cellular, rich in blood, without a barrier to hold the agent back. Typical
# values, not measured: about isointense in T1 and T2 and bright in perfusion, as in the radiology literature (e.g.
# Watts 2014, Insights Imaging 5:113).
TISSUE = Tissue(0.84, 1420, 112, 68, 0.90, 0.12, 160, uptake=2.0)


def plan_meningioma(shape: Shape, rng: np.random.Generator) -> TumourPlan:
    """Draw size and place: on the convexity or, one in three, on one side of the falx, cut off by the dura.

    Tumours of 5–60 mL with a smooth outline; oedema around two in three; a little necrosis in one of five. Source:
    ours; what it is to look like as in LaBella et al. 2024 (doi 10.1038/s41597-024-03350-9), numbers are not measured.
    """
    core = float(np.clip(np.exp(rng.normal(np.log(20), 0.6)), 5, 60))
    core_share = float(rng.uniform(0.35, 0.75)) if rng.random() < 2 / 3 else 1.0
    necrotic_share = float(rng.uniform(0.01, 0.05)) if rng.random() < 1 / 5 else 0.0
    if shape.analytic:  # voxels are large
        core = max(core, 35.0)
    radius = (3 * core * 1000 / (2 * np.pi)) ** (1 / 3)  # of half a ball: the dura cuts the other half off
    x, _, z = shape.moved
    brain, depth = shape.lattice_maps["brain"] > 0.5, shape.lattice_depth
    shell = shape.step * shape.frame.unit_mm  # depth of the outermost voxels
    if rng.random() < 1 / 3:
        good = brain & (np.abs(x) < 6) & (z > 12) & (depth > 0.4 * radius)
        side = int(rng.choice((-1, 1)))
    else:
        good = brain & (depth < max(0.15 * radius + 3, 1.1 * shell)) & (z > -5) & (np.abs(x) > 18)
        side = 0
    places = np.argwhere(good if good.any() else brain & (depth < 1.1 * shell))
    place = tuple(places[rng.integers(len(places))])
    a, b, c = (float(axis[place]) for axis in shape.position)
    return TumourPlan(
        Mass((a, b, c), float(radius), float(radius * rng.uniform(0.4, 0.7))),
        core / core_share,
        core_share,
        necrotic_share,
        lobes=0.1,
        side=side,
        solid=TISSUE,
    )
