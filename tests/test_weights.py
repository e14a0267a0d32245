import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import ummgat
from bad_nifti import truncate
from conftest import DOMAINS, tiny_config
from ummgat.core.domain import Domain, DomainTable
from ummgat.core.tensors import file_hash, load_tensors, save_tensors
from ummgat.model.atlas import Atlas
from ummgat.model.networks import build_networks, moving_average_of
from ummgat.model.weights import TrainedModel, load_model, save_model
from ummgat.train.pack import pack
from ummgat.train.state import new_state, started_from

NETWORKS = ("generator", "encoder", "mapper", "discriminator")

SRC = Path(ummgat.__file__).parent


@pytest.fixture
def model():
    config = tiny_config()
    rng = np.random.default_rng(0)
    return TrainedModel(
        nets=moving_average_of(build_networks(config.model, 3, seed=5)),
        table=DomainTable.from_names(["Zürich/t2", "A/t1", "A/t2"]),
        config=config,
        codes={name: torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("xy")},
        histograms=rng.dirichlet(np.ones(256), 3),
        spreads=np.where(np.eye(3)[:, ::-1, None] > 0, np.nan, rng.random((3, 3, 5)) * 50),
        flickers=np.array([3.5, np.nan, 8.0]),
        lesions=np.array([[90.0, np.nan, 180.0]] * 3),
        lesion_spreads=np.array([[9.0, np.nan, 20.0]] * 3),
        atlas=Atlas(*(rng.integers(0, 256, s).astype(np.uint8) for s in ((3, 5, 6, 4), (3, 5, 6, 4), (5, 6, 4)))),
        criteria={"score": 1.5, "mode": "mean", "sources": {"A/t1": ["A/t2"]}},
        training={"steps": 7},
        version="",
        hash="",
    )


@pytest.fixture
def path(model, tmp_path):
    save_model(tmp_path / "model.safetensors", model)
    return tmp_path / "model.safetensors"


SAVED = """
import sys, torch
from ummgat.core.tensors import save_tensors
save_tensors(
    sys.argv[1],
    {"b": torch.ones(3).half(), "a": torch.ones(2), "é": torch.ones(5).byte()},
    {"format": "f", "version": "1", "domains": ["A/t1"], "config": {"x": 1}, "criteria": {},
     "training": {"née": None}, "step": 3},
)
"""


def test_the_same_content_gives_the_same_bytes(tmp_path):
    """Also in another process, which orders sets and hash maps otherwise."""
    files = []
    for seed in ("1", "2", "3"):
        files.append(tmp_path / f"{seed}.safetensors")
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", SAVED, str(files[-1])], check=True, env=environment)
    assert len({file.read_bytes() for file in files}) == 1
    tensors, metadata = load_tensors(files[0], "f")
    assert (metadata["training"], metadata["step"], metadata["domains"]) == ({"née": None}, 3, ["A/t1"])
    assert {name: len(tensor) for name, tensor in tensors.items()} == {"a": 2, "b": 3, "é": 5}


def test_a_model_saved_twice_has_one_hash(model, tmp_path):
    hashes = set()
    for i in range(8):  # seven entries of metadata: chance alone gives one order eight times in 10^25 cases
        save_model(tmp_path / f"{i}.safetensors", model)
        hashes.add(file_hash(tmp_path / f"{i}.safetensors"))
    assert len(hashes) == 1


def test_what_was_exported_comes_back(model, path):
    found = load_model(path)
    assert found.table.names == ["Zürich/t2", "A/t1", "A/t2"]  # branch order, not alphabet
    assert found.config == model.config
    assert (found.criteria, found.training) == (model.criteria, model.training)
    assert found.version == ummgat.__version__
    assert found.hash == file_hash(path)
    assert found.nets.discriminator is None
    for (name, a), (other, b) in zip(found.nets.named(), model.nets.named(), strict=True):
        assert name == other
        assert a.state_dict().keys() == b.state_dict().keys()
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
        assert not any(p.requires_grad for p in a.parameters())
    for name, codes in model.codes.items():
        assert torch.equal(found.codes[name], codes)
    np.testing.assert_allclose(found.spreads, model.spreads, rtol=1e-6)  # unknown ones too
    np.testing.assert_allclose(found.histograms, model.histograms, rtol=1e-6)
    assert torch.equal(found.code(Domain("A", "t1"), "x"), model.codes["x"][1])


def test_metadata_can_be_read_without_us(path):
    with safe_open(path, framework="np") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert metadata["format"] == "ummgat-model-4"
    assert metadata["version"] == ummgat.__version__
    assert metadata["domains"] == ["Zürich/t2", "A/t1", "A/t2"]
    assert metadata["config"]["model"]["code_dim"] == 4
    assert "arbitrary units" in metadata["intensities"]


def test_model_of_a_run_names_its_domains_and_counts(model_path, strict_draw):
    found = load_model(model_path)
    assert found.table.names == DOMAINS
    assert found.training == {
        "steps": 4,
        "draw": "strict",
        "train_subjects": 4,
        "train_volumes": 4,
        "selection_subjects": 2,
    }
    assert set(found.codes) == {"mapper", "mean"}
    np.testing.assert_allclose(found.histograms.sum(1), 1, rtol=1e-6)
    assert (found.histograms[:, 0] == 0).all()


def test_hash_changes_with_any_byte(path, tmp_path):
    copy = shutil.copy(path, tmp_path / "copy")
    assert file_hash(copy) == file_hash(path)
    assert re.fullmatch("[0-9a-f]{16}", file_hash(path))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    Path(copy).write_bytes(content)
    assert file_hash(copy) != file_hash(path)


# ---------------------------------------------------------------- bad files


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_file_cut_short_is_named(path, share):
    truncate(path, share)
    with pytest.raises(ValueError, match=r"Weights file is damaged: .*model\.safetensors.*cut short: copy it again"):
        load_model(path)


def test_foreign_file_is_named(path):
    path.write_bytes(b"PK\x03\x04 a pickle in a zip, as torch.save writes" * 100)
    with pytest.raises(ValueError, match="Weights file is damaged"):
        load_model(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Weights are missing: .*nothing\.safetensors"):
        load_model(tmp_path / "nothing.safetensors")


def test_checkpoint_is_not_a_model(trained_run):
    with pytest.raises(
        ValueError,
        match=r"another kind: .*Found format 'ummgat-checkpoint-1'; expected ummgat-model-4 or ummgat-model-3",
    ):
        load_model(trained_run / "checkpoint.safetensors")


def test_safetensors_of_somebody_else_is_refused(tmp_path):
    save_tensors(tmp_path / "x.safetensors", {"weight": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match="Found format None"):
        load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(model, tmp_path, value):
    next(model.nets.encoder.parameters()).data[0] = value
    save_model(tmp_path / "model.safetensors", model)
    with pytest.raises(ValueError, match=r"Weights are not finite: .*model\.safetensors\. Found NaN or infinity"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("message", ["tensor gone", "wrong shape"])
def test_weights_that_do_not_fit_their_own_config_are_refused(path, message):
    tensors, metadata = load_tensors(path, "ummgat-model-4")
    name = next(n for n in tensors if n.startswith("mapper."))
    tensors = {n: t for n, t in tensors.items() if n != name} | (
        {name: torch.zeros(1, 1)} if message == "wrong shape" else {}
    )
    save_tensors(path, tensors, metadata)
    with pytest.raises(ValueError, match=r"Weights do not fit their config: .*model\.safetensors"):
        load_model(path)


@pytest.mark.parametrize("accident", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_full_disk_and_ctrl_c_keep_the_old_file_and_leave_nothing_half_written(model, path, monkeypatch, accident):
    before = path.read_bytes()

    def fail(self, data):
        with self.open("wb") as file:
            file.write(data[:100])
        raise accident

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(type(accident)) as caught:
        save_model(path, model)
    monkeypatch.undo()
    if isinstance(accident, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert f"Disk is full: {path}. Found no space" in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_nothing_is_unpickled():
    """A pickle can run any code; weights come from strangers."""
    banned = re.compile(
        r"\b(torch\.load|torch\.save|pickle\.loads?|import pickle|joblib|allow_pickle=True|eval\(|exec\()"
    )
    # Foreign formats that have no other form: tensors alone are read, see torch's `weights_only`.
    tensors_only = re.compile(r"torch\.load\([^()]*weights_only=True[^()]*\)")
    assert banned.search(tensors_only.sub("", "state = torch.load(path)"))
    assert not banned.search(tensors_only.sub("", "state = torch.load(path, weights_only=True)"))
    to_own_children = (
        SRC / "core" / "each.py"
    )  # what it pickles is never a file: worker processes get it through a pipe
    assert "open(" not in to_own_children.read_text(encoding="utf-8")
    for source in set(SRC.rglob("*.py")) - {to_own_children}:
        text = tensors_only.sub("", source.read_text(encoding="utf-8"))
        found = banned.search(re.sub(r"\.eval\(\)", "", text))
        assert not found, f"{source}: {found and found[0]}"


def test_a_packed_run_is_small_is_used_like_any_model_and_holds_d(trained_run, tmp_path):
    packed = pack(trained_run, tmp_path / "small.safetensors")
    whole = trained_run / "model.safetensors"
    old, new = load_model(whole), load_model(packed)
    assert new.nets.discriminator is None
    assert new.hash != old.hash
    tensors, _ = load_tensors(packed, "ummgat-model-4")
    checkpoint, _ = load_tensors(trained_run / "checkpoint.safetensors", "ummgat-checkpoint-1")
    weights = {name: t for name, t in tensors.items() if name.split(".")[0] in NETWORKS}
    assert {t.dtype for t in weights.values()} == {torch.float16}
    for name, tensor in weights.items():
        if name.startswith("discriminator."):
            assert torch.equal(tensor, checkpoint[f"nets.{name}"].half())
    assert any(name.startswith("discriminator.") for name in weights)
    for (name, module), (_, other) in zip(old.nets.named(), new.nets.named(), strict=True):
        for key, value in module.state_dict().items():
            torch.testing.assert_close(other.state_dict()[key], value, rtol=1e-3, atol=1e-7, msg=f"{name}.{key}")
            assert other.state_dict()[key].dtype == torch.float32
    assert torch.equal(new.codes["mean"], old.codes["mean"])


def test_a_run_starts_from_a_packed_model_with_d_and_from_an_exported_one_without(trained_run, tmp_path):
    packed, config = pack(trained_run, tmp_path / "small.safetensors"), tiny_config()
    stored, _ = load_tensors(packed, "ummgat-model-4")
    table = DomainTable.from_names(DOMAINS)
    fresh = new_state(config, len(table), torch.device("cpu"))
    state = started_from(packed, config, table, torch.device("cpu"))
    for nets in (state.nets, state.average):
        for name, module in nets.named():
            for key, value in module.state_dict().items():
                assert torch.equal(value, stored[f"{name}.{key}"].float()), (name, key)
    assert state.step == 0
    assert state.started_from == file_hash(packed)
    assert all(p.requires_grad for _, module in state.nets.named() for p in module.parameters())
    groups = {
        id(p) for _, optimizer in state.optimizers.named() for group in optimizer.param_groups for p in group["params"]
    }
    assert groups == {id(p) for _, module in state.nets.named() for p in module.parameters()}
    without = started_from(trained_run / "model.safetensors", config, table, torch.device("cpu"))
    for key, value in fresh.nets.discriminator.state_dict().items():
        assert torch.equal(without.nets.discriminator.state_dict()[key], value)


@pytest.mark.parametrize(
    ("config", "names", "message"),
    [
        (tiny_config(model__code_dim=6), DOMAINS, "model.code_dim 4 → 6"),
        (tiny_config(), DOMAINS[:3], "domains A/t1, A/t1ce, A/t2, B/t2 → A/t1, A/t1ce, A/t2"),
    ],
)
def test_a_model_that_does_not_fit_the_run_is_refused(model_path, config, names, message):
    with pytest.raises(ValueError, match="does not fit the run") as caught:
        started_from(model_path, config, DomainTable.from_names(names), torch.device("cpu"))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["fine", "fine_unpaired"])
def test_bundled_weights_are_of_one_center_at_1_mm_and_small(name):
    path = Path(ummgat.__file__).parent / "weights" / f"{name}.safetensors"
    assert path.stat().st_size < 20e6
    model = load_model(path)
    assert model.only_center == "G"
    assert {d.sequence for d in model.table} == {"t1", "t1ce", "t2", "flair"}
    assert model.config.data.spacing_mm == 1
    assert model.atlas is not None
    assert model.config.train.schedule == {"fine": "mixed", "fine_unpaired": "alternating"}[name]


def test_the_files_of_earlier_versions_load_and_speak_their_own_scale():
    """The 2 mm weights were trained on images scaled by percentiles, and its config names an ablation that is gone."""
    from ummgat.model.translator import stretched

    old = load_model(Path(ummgat.__file__).parent / "weights" / "small.safetensors")
    assert old.by_percentiles
    assert old.atlas is None
    volume = np.zeros((4, 6, 6), np.uint8)
    volume[1:3, 1:5, 1:5] = np.linspace(60, 180, 32).reshape(2, 4, 4)
    shown = stretched(volume)
    assert (shown[volume > 0].min(), shown[volume > 0].max()) == (1, 255)
    assert (shown[volume == 0] == 0).all()
