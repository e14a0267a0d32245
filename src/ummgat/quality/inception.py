"""Inception-v3 as the Fréchet Inception Distance uses it, up to its 2048 pooled features.

The network of 2015 differs from the later one in three places: average pooling does not count the padding, the last
block pools by maximum, and its classifier has 1008 outputs. Weights are the user's: nothing is bundled and nothing is
downloaded. Numerically unverified: nobody who wrote this had the file; shapes, names and counts are checked, features
are not.

Source: Szegedy et al. 2016 (architecture); Heusel et al. 2017 (FID).
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
SHA256_START = "6726825d"
FEATURES = 2048

Size = int | tuple[int, int]


class _Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, n_in: int, n_out: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(n_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _MixedA(nn.Module):
    """35×35: 1×1, 5×5, twice 3×3, pooled."""

    def __init__(self, n_in: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(n_in, 64, 1)
        self.branch5x5_1 = _Conv(n_in, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(n_in, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(n_in, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_mean_pool(x))], 1)


class _MixedB(nn.Module):
    """35×35 to 17×17."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(n_in, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(n_in, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class _MixedC(nn.Module):
    """17×17: convolutions of seven by one."""

    def __init__(self, n_in: int, n: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(n_in, 192, 1)
        self.branch7x7_1 = _Conv(n_in, n, 1)
        self.branch7x7_2 = _Conv(n, n, (1, 7), padding=(0, 3))
        self.branch7x7_3 = _Conv(n, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = _Conv(n_in, n, 1)
        self.branch7x7dbl_2 = _Conv(n, n, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = _Conv(n, n, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = _Conv(n, n, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = _Conv(n, 192, (1, 7), padding=(0, 3))
        self.branch_pool = _Conv(n_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_mean_pool(x))], 1)


class _MixedD(nn.Module):
    """17×17 to 8×8."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(n_in, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(n_in, 192, 1)
        self.branch7x7x3_2 = _Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], 1)


class _MixedE(nn.Module):
    """8×8: branches that split in two."""

    def __init__(self, n_in: int, by_maximum: bool) -> None:
        super().__init__()
        self.by_maximum = by_maximum
        self.branch1x1 = _Conv(n_in, 320, 1)
        self.branch3x3_1 = _Conv(n_in, 384, 1)
        self.branch3x3_2a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(n_in, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Conv(n_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.by_maximum else _mean_pool(x)
        split = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        split += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *split, self.branch_pool(pooled)], 1)


class FidInception(nn.Module):
    """Images (n, 3, 299, 299) in [-1, 1] → features (n, 2048). Parameter names are those of the weights file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _MixedA(192, 32)
        self.Mixed_5c = _MixedA(256, 64)
        self.Mixed_5d = _MixedA(288, 64)
        self.Mixed_6a = _MixedB(288)
        self.Mixed_6b = _MixedC(768, 128)
        self.Mixed_6c = _MixedC(768, 160)
        self.Mixed_6d = _MixedC(768, 160)
        self.Mixed_6e = _MixedC(768, 192)
        self.Mixed_7a = _MixedD(768)
        self.Mixed_7b = _MixedE(1280, by_maximum=False)
        self.Mixed_7c = _MixedE(2048, by_maximum=True)

    def forward(self, x: Tensor) -> Tensor:
        """Features before the classifier, averaged over space."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def load_fid_inception(path: Path) -> FidInception:
    """Read the user's weights.

    Parameters
    ----------
    path : Path
        `pt_inception-2015-12-05-6726825d.pth`, known by its hash, not by its name.

    Raises
    ------
    FileNotFoundError, ValueError
        Missing; another file, told by its SHA-256 before anything in it is read; or not what the network needs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Inception weights are missing: {path}. Found no file; expected {WEIGHTS}. Give its path, or use other "
            f"features."
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(SHA256_START):
        raise ValueError(
            f"Not the Inception weights of FID: {path}. Found SHA-256 {found[:16]}…; expected one that starts with "
            f"{SHA256_START}. Give {WEIGHTS}, or use other features, which are not called FID."
        )
    net = FidInception()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # The classifier is of no use here, and counters of batches are not in files as old as this one.
        missing, foreign = net.load_state_dict(
            {k: v for k, v in state.items() if not k.startswith("fc.")}, strict=False
        )
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or foreign:
            raise RuntimeError(f"{len(missing)} tensors missing, {len(foreign)} unknown: {[*missing, *foreign][:3]}")
    except Exception as error:  # what is raised depends on where the file is broken
        raise ValueError(
            f"Inception weights do not fit: {path}. Found {error}; expected the state dict of {WEIGHTS}. Copy the file "
            f"again."
        ) from error
    return net.requires_grad_(False).eval()
