import json
import sys

import pytest

from ummgat import doctor
from ummgat.core import machine
from ummgat.core.machine import choose_device
from ummgat.doctor import Precision, examine, recommend, rows


@pytest.fixture(scope="module")
def found():
    return examine()


def test_a_sound_machine_has_no_problems(found):
    assert found.problems == []
    assert found.versions["ummgat"] == doctor.__version__
    for package in ("numpy", "torch", "nibabel", "lightning-fabric"):
        assert found.versions[package][0].isdigit()
    assert "pytest" not in found.versions  # belongs to an extra
    assert found.extras["dev"] == []
    assert found.cores >= 1
    assert found.threads >= 1
    assert "cpu" in found.devices
    assert found.free_disk_bytes > 0


def test_precision_is_timed_not_guessed(found):
    assert found.cpu_precision.float32_ms > 0
    assert found.cpu_precision.ratio == pytest.approx(found.cpu_precision.bfloat16_ms / found.cpu_precision.float32_ms)
    assert found.precision in ("32-true", "bf16-mixed")


@pytest.mark.parametrize(
    ("bfloat16_ms", "precision", "word"),
    [(60.0, "32-true", "60 times"), (1.1, "32-true", "nothing"), (0.5, "bf16-mixed", "units")],
)
def test_the_advice_follows_the_timing(bfloat16_ms, precision, word):
    chosen, why = recommend(Precision(1.0, bfloat16_ms), {"cpu": "some CPU"})
    assert chosen == precision
    assert word in why


def test_the_report_is_json_and_prints(found):
    value = json.loads(json.dumps(found.as_json()))
    assert value["cpu_precision"]["ratio"] == found.cpu_precision.ratio
    assert value["problems"] == []
    printed = dict(rows(found))
    assert printed["torch"] == found.versions["torch"]
    assert found.precision in printed["train.precision"]
    assert printed["extra dev"] == "present"


def test_a_machine_without_torch_is_diagnosed_and_not_a_crash(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what an import then raises is an ImportError
    found = examine()
    assert any("torch cannot be imported" in problem for problem in found.problems)
    assert found.threads is None
    assert found.devices == {}
    assert dict(rows(found))["CPU"].endswith("cores")
    json.dumps(found.as_json())


def test_missing_packages_are_problems_and_missing_extras_are_not(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("scipy", "hypothesis") else real(name))
    found = examine()
    assert [problem for problem in found.problems if "scipy" in problem] == found.problems
    assert found.extras["dev"] == ["hypothesis"]
    assert dict(rows(found))["extra dev"] == "absent, without hypothesis"


def test_devices_are_checked_before_they_are_used(monkeypatch):
    import torch

    assert choose_device("cpu") == "cpu"
    with pytest.raises(ValueError, match=r"Unknown device\. Found 'tpu'; expected one of auto, cpu"):
        choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(ValueError, match=r"Device is not available\. Found cpu.*; expected cuda"):
        choose_device("cuda")


def test_the_bundled_model_is_found_only_if_it_is_there(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.resources, "files", lambda package: tmp_path)
    assert machine.bundled_file(machine.BUNDLED_MODEL) is None
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / machine.BUNDLED_MODEL).touch()
    assert machine.bundled_file(machine.BUNDLED_MODEL) == tmp_path / "weights" / machine.BUNDLED_MODEL
