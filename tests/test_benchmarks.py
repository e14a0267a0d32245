"""What the benchmarks count, by hand on operators whose cost is known; nothing here looks at a time."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("counting")


def cost(counting, work):
    """(FLOPs, bytes) of every operator that `work` runs, by name, calls added up."""
    with counting.CountOperators() as counter:
        work()
    found = {}
    for call in counter.calls:
        flops, moved = found.get(call.name, (0, 0))
        found[call.name] = flops + call.flops, moved + call.bytes
    assert counter.flops == sum(flops for flops, _ in found.values())
    return found


def test_products_and_sums_count_operands_and_results(counting):
    a, b, c = torch.ones(3, 5), torch.ones(5, 7), torch.ones(3, 7)
    assert cost(counting, lambda: a @ b) == {"mm": (2 * 3 * 5 * 7, 4 * (15 + 35 + 21))}
    assert cost(counting, lambda: c + c.double()) == {"_to_copy": (0, 21 * (4 + 8)), "add": (0, 21 * (4 + 8 + 8))}
    assert cost(counting, lambda: c * c) == {"mul": (0, 4 * (21 + 21))}  # one operand, read once
    assert cost(counting, lambda: c + torch.ones(7).expand(3, 7))["add"] == (0, 4 * (21 + 7 + 21))
    assert cost(counting, lambda: torch.cat([c, c[:1]])) == {"slice": (0, 0), "cat": (0, 4 * (21 + 7 + 28))}


def test_in_place_operators_count_what_they_read_and_change(counting):
    a, b = torch.ones(6), torch.ones(6)
    assert cost(counting, lambda: a.add_(b)) == {"add_": (0, 4 * (6 + 6 + 6))}
    assert cost(counting, lambda: a.copy_(b)) == {"copy_": (0, 4 * (6 + 6))}
    assert cost(counting, lambda: a.zero_()) == {"zero_": (0, 4 * 6)}
    assert cost(counting, lambda: torch._foreach_mul_([a, b], 2.0)) == {"_foreach_mul_": (0, 4 * 4 * 6)}


def test_views_and_allocations_move_nothing(counting):
    a = torch.ones(4, 6)
    found = cost(
        counting,
        lambda: (a.view(24), a.permute(1, 0), a[1:, 2], a.expand(2, 4, 6), a.chunk(2), a.detach(), a.new_empty(9)),
    )
    assert {"view", "permute", "slice", "select", "expand", "split", "detach", "new_empty"} == set(found)
    assert set(found.values()) == {(0, 0)}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_both_gradients_of_a_convolution_cost_what_it_did(counting, groups):
    """Also with groups, where PyTorch's formula has the weight gradient `groups` times too large."""
    x, weight = torch.ones(2, 4, 5, 6, requires_grad=True), torch.ones(8, 4 // groups, 3, 3, requires_grad=True)
    forward = 2 * (2 * 8 * 5 * 6) * (4 // groups * 3 * 3)
    moved = 4 * (2 * 4 * 30 + weight.numel() + 2 * 8 * 30)
    found = cost(counting, lambda: F.conv2d(x, weight, padding=1, groups=groups).sum().backward())
    assert found["convolution"] == (forward, moved)
    # The gradient of the sum is one number, expanded.
    assert found["convolution_backward"] == (2 * forward, 4 * (1 + 2 * (2 * 4 * 30 + weight.numel())))
    frozen = cost(counting, lambda: F.conv2d(x, weight.detach(), padding=1, groups=groups).sum().backward())
    assert frozen["convolution_backward"][0] == forward


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_count_their_smaller_side(counting, groups):
    x, weight = torch.ones(2, 4, 5, 6, requires_grad=True), torch.ones(4, 8 // groups, 2, 2, requires_grad=True)
    forward = 2 * (2 * 4 * 5 * 6) * (8 // groups * 2 * 2)
    found = cost(counting, lambda: F.conv_transpose2d(x, weight, stride=2, groups=groups).sum().backward())
    assert found["convolution"][0] == forward
    assert found["convolution_backward"][0] == 2 * forward


def test_composites_are_taken_apart_without_autograd_too(counting):
    """There they reach the counter whole, and a `linear` without a formula would count for nothing."""
    linear = torch.nn.Linear(5, 7)
    x = torch.ones(3, 5)
    with torch.inference_mode():
        found = cost(counting, lambda: linear(x))
        enlarged = cost(counting, lambda: F.interpolate(torch.ones(1, 2, 4, 4), scale_factor=2, mode="bilinear"))
    assert found["addmm"] == (2 * 3 * 5 * 7, 4 * (15 + 35 + 7 + 21))
    assert enlarged["upsample_bilinear2d"] == (0, 4 * (32 + 128))


def test_attainable_is_the_longer_of_arithmetic_and_traffic(counting):
    rates = counting.Rates({torch.float32: 100.0, torch.bfloat16: 400.0}, {1000: 50.0, 4000: 80.0, 16000: 10.0})
    product = counting.Call("mm", 500, 40, torch.float32, 0.0)
    assert rates.attainable(product) == 5.0
    assert rates.attainable(product._replace(dtype=torch.bfloat16)) == 1.25
    assert rates.attainable(product._replace(bytes=800)) == 10.0  # at the best rate of any size it could be part of
    assert rates.attainable(product._replace(bytes=8000)) == 800.0
    assert rates.attainable(product._replace(bytes=800), cached=False) == 80.0
    assert rates.attainable(product._replace(bytes=10**6)) == 10**5
    other = counting.Rates({torch.float32: 90.0, torch.bfloat16: 500.0}, {1000: 60.0, 4000: 70.0, 16000: 9.0})
    assert rates.best_of(other) == (
        {torch.float32: 100.0, torch.bfloat16: 500.0},
        {1000: 60.0, 4000: 80.0, 16000: 10.0},
    )


def test_roofline_prints_its_tables_and_the_headline(tmp_path):
    command = [sys.executable, str(FOLDER / "roofline.py"), "--preset", "tiny", "--rounds", "1", "--threads", "1"]
    small = [
        "data.crop=[32, 32]",
        "train.batch=2",
        "train.r1_every=2",
        "model.depths=[1, 1]",
        "model.generator=attention_unet",
    ]
    command += ["--planes", "2", "--json", str(tmp_path / "found.json"), *(w for s in small for w in ("--set", s))]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith("headline: achieved/attainable training ")
    assert "completion " in last
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["matmul_gflops"] > 0
    for name in ("training", "completion"):
        rows = {row["operator"]: row for row in found[name]["operators"]}
        assert found[name]["ratio"] > 0
        assert rows["convolution"]["gflop"] > 0
        assert rows["addmm"]["gflop"] > 0
        assert rows["view"]["calls"] > 0
        assert rows["view"]["gigabytes"] == 0
    assert "convolution_backward" in {row["operator"] for row in found["training"]["operators"]}
