"""Foreign segmenters: tiny models of each kind, made here, in their own process; and how they may misbehave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from ummgat.cli import app
from ummgat.evaluate.results import read_results
from ummgat.evaluate.segmentation import evaluate
from ummgat.model.weights import load_model
from ummgat.segment.describe import describe_bundle, describe_nnunet
from ummgat.segment.load import SEGMENTERS, kind_of, load_any
from ummgat.segment.meanings import Meaning, channel_meaning, numbered, ours, sequences_of
from ummgat.segment.unet import normalised

HERE = Path(__file__).parent
STAND_IN = HERE / "stand_in"
LABELS_2023 = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def opened():
    """`load_any` of trusted models, whose processes end with the test."""
    found = []

    def load(path, spacing_mm=1.0, **options):
        found.append(load_any(path, spacing_mm, trust=True, timeout_s=60, **options))
        return found[-1]

    yield load
    for segmenter in found:
        segmenter.close()


def nnunet_folder(path, channels=("T1c", "FLAIR"), labels=LABELS_2023, plans=None, **more):
    write(
        path / "dataset.json", {"channel_names": {str(i): n for i, n in enumerate(channels)}, "labels": labels, **more}
    )
    write(path / "plans.json", plans or {"image_reader_writer": "SimpleITKIO"})
    write(path / "moods.json", {})
    (path / "fold_0").mkdir(exist_ok=True)
    (path / "fold_0" / "checkpoint_final.pth").write_text("weights")
    return path


@pytest.fixture
def nnunet(tmp_path, monkeypatch):
    """A folder for the stand-in, which is what `import nnunetv2` finds."""
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    return nnunet_folder(tmp_path / "nn")


def images(*values, shape=(3, 4, 5)):
    """t1ce, flair, …: a volume each of one value, with another at the voxel (plane 0, row 1, column 2)."""
    found = {}
    for name, value in zip(("t1ce", "flair", "t1", "t2"), values, strict=False):
        found[name] = np.full(shape, value, np.uint8)
    return found


def pids(folder):
    return json.loads((folder / "pids.json").read_text())


def wait_until_gone(pid):
    """Return when the process is dead; a dead one that nobody has waited for counts. Else the test is killed."""
    for _ in range(600):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat")
            if state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError(f"process {pid} was left")


# ---------------------------------------------------------------- kinds and trust


def test_kind_shows_in_the_content(tmp_path):
    for name in ("a.safetensors", "b.onnx"):
        (tmp_path / name).touch()
    write(tmp_path / "c" / "configs" / "metadata.json", {})
    nnunet_folder(tmp_path / "d")
    (tmp_path / "e" / "fold1").mkdir(parents=True)
    (tmp_path / "e" / "fold1" / "segmenter.safetensors").touch()
    found = [kind_of(tmp_path / name) for name in ("a.safetensors", "b.onnx", "c", "d", "e")]
    assert found == ["own", "onnx", "bundle", "nnunet", "folds"]
    assert set(found) == set(SEGMENTERS)
    (tmp_path / "d" / "fold_0" / "checkpoint_final.pth").unlink()
    for path in (tmp_path / "d", tmp_path, HERE / "conftest.py"):
        with pytest.raises(ValueError, match=r"Segmenter is of no known kind: .*Choose one of these"):
            kind_of(path)
    with pytest.raises(FileNotFoundError, match="Segmenter is missing"):
        kind_of(tmp_path / "nowhere")


def test_nothing_foreign_runs_without_trust(nnunet, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    with pytest.raises(ValueError, match=r"Segmenter is not trusted: .*\(nnunet\).*can run any code as you.*--trust"):
        load_any(nnunet, 1.0)


# ---------------------------------------------------------------- what names mean


def test_channels_are_told_by_name_or_not_at_all():
    assert sequences_of(["T1-Gd", "T1w", "T2", "FLAIR"], None, "x") == ("t1ce", "t1", "t2", "flair")
    assert sequences_of(["0000", "0001"], ["t2", "flair"], "x") == ("t2", "flair")
    for names in (["T1", "ADC"], ["T1", "t1w"], ["seg"], []):
        with pytest.raises(ValueError, match=r"Channels are not clear: x\. .*--segmenter-sequences"):
            sequences_of(names, None, "x")
    with pytest.raises(ValueError, match=r"Another number of channels: x\. Found 1 \(T1\); expected 2"):
        sequences_of(["T1"], ["t1", "t2"], "x")
    with pytest.raises(ValueError, match="Unknown sequence: --segmenter-sequences"):
        sequences_of(["T1"], ["pd"], "x")


def test_labels_are_told_by_name_whatever_their_number():
    old = numbered({0: "background", 4: "enhancing tumour", 1: "NCR/NET", 2: "Edema"}, "x")
    answer = np.array([[[0, 1, 2, 4]]])
    np.testing.assert_array_equal(ours(answer, (1, 1, 4), Meaning(("t1",), old), "x"), [[[0, 1, 2, 3]]])
    new = numbered({0: "ET", 1: "NETC", 2: "SNFH", 3: "background"}, "x")
    answer = np.array([[[0, 1, 2, 3]]])
    np.testing.assert_array_equal(ours(answer, (1, 1, 4), Meaning(("t1",), new), "x"), [[[3, 1, 2, 0]]])
    whole = Meaning(("t1",), numbered({0: "background", 1: "Whole tumor"}, "x"))
    assert whole.covers == "wt"
    np.testing.assert_array_equal(ours(answer[..., :2], (1, 1, 2), whole, "x"), [[[0, 2]]])
    with pytest.raises(ValueError, match=r"Unknown label: x\. Found 'tumor'"):
        numbered({0: "background", 1: "tumor"}, "x")
    for names in ({0: "background", 1: "NCR", 2: "ED"}, {0: "NCR", 1: "ED", 2: "ET", 3: "ET"}, {0: "TC"}):
        with pytest.raises(ValueError, match=r"Labels do not tell the tumour: x\."):
            numbered(names, "x")


def test_regions_in_any_order_become_labels_and_the_smaller_one_wins():
    meaning = Meaning(("t1",), **channel_meaning(["Tumor core", "Whole tumor", "Enhancing tumor"], "x"), threshold=0)
    tc, wt, et = [0, 0, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 0, 1, 0]
    answer = np.array([tc, wt, et], np.uint8)[:, None, None]
    np.testing.assert_array_equal(ours(answer, (1, 1, 5), meaning, "x"), [[[0, 2, 1, 3, 1]]])
    assert meaning.covers == "multi"
    with pytest.raises(ValueError, match=r"Outputs do not tell the tumour: x\. Found TC, ET"):
        channel_meaning(["TC", "ET"], "x")


# ---------------------------------------------------------------- nnU-Net, by a stand-in


def test_nnunet_gets_channels_in_its_order_its_axes_and_the_spacing(nnunet, opened):
    segmenter = opened(nnunet, spacing_mm=2.0, orientation="LPS")
    assert (segmenter.sequences, segmenter.regions, segmenter.training) == (("t1ce", "flair"), "multi", {})
    given = images(100, 0)
    given["flair"][0, 1, 2], given["flair"][2, 3, 4], given["t1ce"][1, 0, 0] = 10, 30, 200
    labels = segmenter({"flair": given["flair"], "t1ce": given["t1ce"], "t2": given["flair"]})
    assert labels.dtype == np.uint8
    assert {tuple(i): int(labels[tuple(i)]) for i in np.argwhere(labels)} == {(0, 1, 2): 1, (2, 3, 4): 3}
    with np.load(nnunet / "seen.npz") as seen:
        np.testing.assert_array_equal(seen["spacing"], [2, 2, 2])
        np.testing.assert_array_equal(seen["images"][0], given["t1ce"][:, ::-1, ::-1])  # rows to P, columns to L
        np.testing.assert_array_equal(seen["images"][1], given["flair"][:, ::-1, ::-1])
    with pytest.raises(ValueError, match=r"Image is missing: flair\."):
        segmenter({"t1ce": given["t1ce"]})


def test_nnunet_with_regions_and_with_a_reader_that_reorients(tmp_path):
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
    folder = nnunet_folder(
        tmp_path, labels=labels, regions_class_order=[1, 2, 3], plans={"image_reader_writer": "NibabelIOWithReorient"}
    )
    meaning = describe_nnunet(folder, {}, None, "LPS")
    assert meaning.orientation == "RAS"
    answer = np.arange(4).reshape(1, 1, 4)
    np.testing.assert_array_equal(ours(answer, (1, 1, 4), meaning, "x"), [[[0, 2, 1, 3]]])
    nnunet_folder(tmp_path, labels=dict(reversed(labels.items())), regions_class_order=[3, 2, 1])
    with pytest.raises(ValueError, match=r"Regions are not nested: .*enhancing tumor, tumor core, whole tumor"):
        describe_nnunet(tmp_path, {}, None, None)
    nnunet_folder(tmp_path, labels=LABELS_2023 | {"ignore": 4})
    assert describe_nnunet(tmp_path, {}, None, None).labels == ((0, "background"), (1, "NCR"), (2, "ED"), (3, "ET"))
    with pytest.raises(ValueError, match=r"Unknown orientation: .*Found 'RAR'"):
        describe_nnunet(tmp_path, {}, None, "RAR")


def test_the_hash_knows_files_and_meaning(nnunet, opened):
    first = opened(nnunet).hash
    assert opened(nnunet).hash == first
    assert opened(nnunet, sequences=["flair", "t1ce"]).hash != first
    (nnunet / "fold_0" / "checkpoint_final.pth").write_text("other weights")
    assert opened(nnunet).hash != first


# ---------------------------------------------------------------- nnU-Net itself


@pytest.mark.skipif(
    "UMMGAT_NNUNET_PYTHON" not in os.environ,
    reason="NOT TESTED with nnU-Net itself: set UMMGAT_NNUNET_PYTHON to a Python that has nnunetv2",
)
def test_the_real_nnunet_answers_as_it_does_by_itself(tmp_path, opened, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = Path(os.environ["UMMGAT_NNUNET_PYTHON"])
    rng = np.random.default_rng(0)
    t1ce, flair = rng.integers(1, 256, (2, 6, 3, 4)).repeat(3, 1).repeat(4, 2).repeat(4, 3).astype(np.uint8)
    turned = np.stack([t1ce, flair])[:, :, ::-1, ::-1].astype(np.float32)  # RAS to LPS
    np.save(tmp_path / "images.npy", turned)
    command = [python, HERE / "real_nnunet.py", tmp_path / "nn", tmp_path / "images.npy", "2", tmp_path / "answer.npy"]
    subprocess.run(command, check=True, capture_output=True)
    segmenter = opened(tmp_path / "nn", spacing_mm=2.0, orientation="LPS", python=python)
    found = segmenter({"t1ce": t1ce, "flair": flair})
    expected = np.load(tmp_path / "answer.npy")[:, ::-1, ::-1]
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 1
    assert not np.array_equal(found, segmenter({"t1ce": flair, "flair": t1ce}))


# ---------------------------------------------------------------- misbehaving


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("raise", r"Segmenter fails: .*RuntimeError: out of order"),
        ("die", r"Segmenter breaks off: .*Found the end of its process \(its last words: .*goodbye\)"),
        ("shape", r"Segmenter answers on another grid: .*Found shape \(2, 4, 5\); expected \(3, 4, 5\)"),
        ("type", r"Segmenter answers with another type: .*Found float32"),
        ("object", r"Segmenter fails: .*Object arrays cannot be saved"),
        ("number", r"Segmenter answers with unknown labels: .*Found 8; expected 0, 1, 2, 3"),
    ],
)
def test_a_bad_answer_is_a_clear_error_and_the_next_study_is_segmented(nnunet, opened, mood, message):
    segmenter = opened(nnunet)
    write(nnunet / "moods.json", {str(60 * 5): mood})
    with pytest.raises(ValueError, match=message):
        segmenter(images(5, 10))
    assert (segmenter(images(6, 20)) == 2).all()


@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="environments of others are read on Linux only")
def test_a_foreign_model_sees_no_secrets_of_the_environment(nnunet, opened, monkeypatch):
    monkeypatch.setenv("CLOUD_TOKEN", "hush")
    monkeypatch.setenv("nnUNet_results", "somewhere")
    segmenter = opened(nnunet)
    seen = Path(f"/proc/{segmenter.worker._process.pid}/environ").read_bytes()
    assert b"hush" not in seen
    assert b"nnUNet_results=somewhere" in seen


def test_a_hanging_model_is_killed_with_its_children_and_starts_anew(nnunet, opened):
    segmenter = opened(nnunet)
    write(nnunet / "moods.json", {str(60 * 5): "hang"})
    segmenter.worker.timeout_s = 2
    with pytest.raises(ValueError, match=r"Segmenter does not answer: .*Found nothing after 2 s.*--segmenter-timeout"):
        segmenter(images(5, 10))
    for pid in pids(nnunet):
        wait_until_gone(pid)
    segmenter.worker.timeout_s = 60
    assert (segmenter(images(6, 20)) == 2).all()


def test_a_model_that_does_not_open_leaves_no_process(nnunet, opened):
    (nnunet / "fold_0" / "checkpoint_final.pth").write_text("damaged")
    with pytest.raises(ValueError, match=r"Segmenter fails: .*RuntimeError: checkpoint is damaged"):
        opened(nnunet)
    with pytest.raises(ValueError, match=r"Segmenter's Python does not start: nowhere/python\..*--segmenter-python"):
        opened(nnunet, python=Path("nowhere/python"))


def test_nnunet_that_is_not_installed_is_a_clear_error(nnunet, opened, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    if subprocess.run([sys.executable, "-c", "import nnunetv2"], capture_output=True, check=False).returncode == 0:
        pytest.skip("nnunetv2 is installed beside ummgat")
    with pytest.raises(ValueError, match=r"no nnunetv2 in .*--segmenter-python"):
        opened(nnunet)


@pytest.mark.skipif(os.name == "nt", reason="a dead parent cannot be noticed there")
@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_no_process_outlives_the_program(nnunet, killed):
    code = f"""
import numpy as np, sys, threading
from pathlib import Path
from ummgat.segment.process import Worker
worker = Worker("nnunet", Path({str(nnunet)!r}), 60)
worker.start()
ask = lambda: worker.ask({{"spacing_mm": [1, 1, 1]}}, np.ones((2, 2, 2, 2), np.float32))
threading.Thread(target=ask, daemon=True).start()
while not Path({str(nnunet / "pids.json")!r}).is_file(): pass
print("hangs", flush=True)
if {killed}: sys.stdin.read()
"""
    write(nnunet / "moods.json", {"8": "hang"})
    path = os.pathsep.join([str(STAND_IN), str(HERE.parent / "src")])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    ) as program:
        assert program.stdout.readline() == b"hangs\n"
        found = pids(nnunet)
        if killed:
            program.kill()
    for pid in found:
        wait_until_gone(pid)


# ---------------------------------------------------------------- in an evaluation


def test_other_subjects_go_on_when_a_foreign_model_hangs(nnunet, opened, tmp_path, model_path, cohort_studies):
    studies = [s for s in cohort_studies if s.center == "A" and {"t1ce", "t2"} <= set(s.sequences)][:2]
    nnunet_folder(nnunet, channels=("T1c", "T2"))
    first = np.asarray(studies[0].volume("t1ce")).astype(np.float32)
    write(nnunet / "moods.json", {str(int(first.sum())): "hang"})
    segmenter = opened(nnunet)

    class Patient:
        """Waits shortly for the one that hangs, and long for the others. Labels every voxel that T2 has as ED."""

        sequences, regions = segmenter.sequences, segmenter.regions

        def __call__(self, images):
            segmenter.worker.timeout_s = 2 if np.array_equal(images["t1ce"], first) else 60
            return segmenter(images | {"t2": np.where(images["t2"] > 0, 20, 0).astype(np.uint8)})

    model = load_model(model_path)
    report = evaluate({"plain": Patient()}, model, studies, tmp_path / "out", {}, {}, scenarios=["none"])
    assert list(report.done) == [studies[1].subject]
    assert list(report.failed) == [studies[0].subject]
    assert "Segmenter does not answer" in report.failed[studies[0].subject]
    rows = read_results(tmp_path / "out" / "results.csv")
    brain = (np.asarray(studies[1].volume("t2")) > 0).sum() / 1000
    assert {r["subject"] for r in rows} == {studies[1].subject}
    assert float(next(r for r in rows if r["region"] == "WT")["found_ml"]) == pytest.approx(brain, abs=1e-3)


def test_the_command_evaluates_a_foreign_model(nnunet, tmp_path, model_path, cohort, cohort_studies):
    complete = [s for s in cohort_studies if s.center == "A" and len(s.sequences) == 4][:2]
    nnunet_folder(nnunet, channels=("T1c", "T2"))
    drawn = {"format": "ummgat-draw-1", "mode": "all", "seed": 0, "domains": ["A/t1ce", "A/t2"], "train": {}}
    write(tmp_path / "draw.json", drawn | {"selection": [], "test": [s.subject for s in complete]})
    brain = np.asarray(complete[0].volume("t1ce"))
    write(nnunet / "moods.json", {str(int(brain.astype(np.float32).sum())): "raise"})
    call = ["evaluate", cohort, tmp_path / "out", "--draw", tmp_path / "draw.json", "--model", model_path]
    call = [str(part) for part in [*call, "--segmenter", nnunet, "--scenarios", "none", "--segmenter-timeout", 60]]
    refused = CliRunner().invoke(app, call)
    assert refused.exit_code == 2
    assert "Segmenter is not trusted" in refused.stderr
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, [*call, "--trust"])
    assert result.exit_code == 1
    assert "Its training subjects are unknown" in result.stdout
    assert "out of order" in result.stderr
    # The other one's T2 has tens above 3, which mean nothing: both failed, each with its own message.
    assert "Segmenter answers with unknown labels" in result.stderr
    settings = json.loads((tmp_path / "out" / "settings.json").read_text(encoding="utf-8"))
    assert settings["training"] == {"plain": "training subjects unknown"}
    assert re.fullmatch("[0-9a-f]{16}", settings["segmenters"]["plain"])


# ---------------------------------------------------------------- MONAI bundle

METADATA = {
    "network_data_format": {
        "inputs": {
            "image": {
                "num_channels": 2,
                "spatial_shape": ["8*n", "8*n", "8*n"],
                "channel_def": {"0": "T1c", "1": "FLAIR"},
            }
        },
        "outputs": {
            "pred": {
                "num_channels": 3,
                "channel_def": {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"},
            }
        },
    }
}
"""As in the bundle brats_mri_segmentation of MONAI's model zoo, with two channels."""

INFERENCE = {
    "imports": ["$import math"],
    "device": "$torch.device('cuda')",
    "network_def": {
        "_target_": "torch.nn.Conv3d",
        "in_channels": 2,
        "out_channels": "$math.floor(3.5)",
        "kernel_size": 3,
        "padding": 1,
    },
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS"},
            {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
            {"_target_": "RandFlipd", "keys": "label"},
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}],
    },
}


def bundle_folder(path, inference=INFERENCE, metadata=METADATA):
    write(path / "configs" / "metadata.json", metadata)
    write(path / "configs" / "inference.json", inference)
    weight = torch.zeros(3, 2, 3, 3, 3)
    weight[0, 0, 1, 1, 1] = 1  # TC: T1c above its mean
    weight[1, 1, 2, 1, 1] = 1  # WT: FLAIR above its mean at the next voxel of the first axis, x, which grows to L
    weight[2, 0, 1, 1, 1], bias = 1, torch.tensor([0.0, 0.0, -1.0])  # ET: T1c above its mean by a standard deviation
    (path / "models").mkdir()
    torch.save({"model": {"weight": weight, "bias": bias}}, path / "models" / "model.pt")
    return path


def test_monai_bundle_with_regions(tmp_path, opened):
    segmenter = opened(bundle_folder(tmp_path / "bundle"))
    assert (segmenter.sequences, segmenter.regions) == (("t1ce", "flair"), "multi")
    rng = np.random.default_rng(0)
    t1ce, flair = rng.integers(1, 256, (2, 9, 10, 13)).astype(np.uint8)
    t1ce[:, :2], flair[:, :2] = 0, 0
    a, b = normalised([t1ce, flair])
    next_x = np.pad(b, ((0, 0), (0, 0), (1, 0)))[..., :-1]  # where x grows to L, the next voxel is the one before ours
    expected = np.where(a > 1, 3, np.where(a > 0, 1, np.where(next_x > 0, 2, 0)))
    np.testing.assert_array_equal(segmenter({"t1ce": t1ce, "flair": flair}), expected)
    assert set(np.unique(expected)) == {0, 1, 2, 3}


def changed(**changes):
    """Meaning of the bundle with other transforms."""
    about = {name: {"transforms": [{"_target_": t, **o} for t, o in steps]} for name, steps in changes.items()}
    return {"preprocessing": None, "postprocessing": INFERENCE["postprocessing"]} | about


def test_what_a_bundle_asks_for_is_done_or_refused(tmp_path):
    write(tmp_path / "configs" / "metadata.json", METADATA)
    plain = describe_bundle(tmp_path, changed(), None, None)
    assert (plain.normalisation, plain.orientation, plain.spacing_mm, plain.multiple) == (
        "none",
        "RAS",
        None,
        (8, 8, 8),
    )
    spaced = describe_bundle(tmp_path, changed(preprocessing=[("Spacingd", {"pixdim": [1, 1, 1]})]), None, None)
    assert spaced.spacing_mm == 1
    cut = describe_bundle(tmp_path, changed(postprocessing=[("AsDiscreted", {"threshold": 0.3})]), None, None)
    assert cut.threshold == 0.3
    for transform in (("ScaleIntensityd", {}), ("NormalizeIntensityd", {"nonzero": True})):
        with pytest.raises(ValueError, match=rf"Transform is not known: .*Found {transform[0][:-1]}"):
            describe_bundle(tmp_path, changed(preprocessing=[transform]), None, None)
    with pytest.raises(ValueError, match=r"Regions have no threshold: .*Activations with sigmoid"):
        describe_bundle(tmp_path, changed(postprocessing=[("SaveImaged", {})]), None, None)


# ---------------------------------------------------------------- ONNX


def onnx_file(path, sides, outputs=4, said=None):
    """One-by-one convolution over (t1ce, flair): output 0 is 0.5, 1 is t1ce, 2 is flair, 3 is t1ce + flair - 1."""
    weight = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)[:outputs].reshape(outputs, 2, *(1 for _ in sides))
    bias = np.array([0.5, 0, 0, -1], np.float32)[:outputs]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, *sides])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs, *sides])
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([node], "g", [given], [made], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if said is not None:
        helper.set_model_props(model, {"ummgat": json.dumps(said)})
    onnx.save(model, path)
    return path


SAID = {
    "sequences": ["t1ce", "flair"],
    "outputs": ["background", "necrosis", "edema", "enhancing"],
    "spacing_mm": 2,
    "normalisation": "unit",
}


@pytest.mark.parametrize("sides", [("z", "y", "x"), (8, 8)], ids=["3-D, any size", "planes of a fixed size"])
def test_onnx_with_labels(tmp_path, opened, sides):
    segmenter = opened(onnx_file(tmp_path / "net.onnx", sides, said=SAID), spacing_mm=2.0)
    rng = np.random.default_rng(0)
    t1ce, flair = rng.integers(0, 256, (2, 3, 9, 12)).astype(np.uint8)
    a, b = (v.astype(np.float32) / 255 for v in (t1ce, flair))
    expected = np.stack([np.full_like(a, 0.5), a, b, a + b - 1]).argmax(0)
    np.testing.assert_array_equal(segmenter({"t1ce": t1ce, "flair": flair}), expected)
    assert set(np.unique(expected)) == {0, 1, 2}


def test_onnx_with_a_file_beside_it_that_goes_first(tmp_path, opened):
    path = onnx_file(tmp_path / "net.onnx", ("z", "y", "x"), outputs=2, said=SAID)
    with pytest.raises(ValueError, match=r"Segmenter fails: .*2 outputs where 4 are named"):
        opened(path, spacing_mm=2.0)(images(1, 1))
    with pytest.raises(ValueError, match=r"Segmenter needs another voxel size: .*images of 1 mm; expected 2 mm"):
        opened(path)
    write(tmp_path / "net.onnx.json", SAID | {"outputs": ["bg", "WT"], "spacing_mm": 1})
    segmenter = opened(path)
    assert segmenter.regions == "wt"
    assert (segmenter(images(200, 0)) == 2).all()
    assert (segmenter(images(100, 0)) == 0).all()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, r"ONNX file does not say what it needs: metadata `ummgat`"),
        (SAID | {"more": 1}, r"ONNX file does not say what it needs"),
        (SAID | {"sequences": ["t1ce"]}, r"Another number of channels: .*Found 1; expected 2"),
        (SAID | {"threshold": 0.5}, r"Threshold does not fit the outputs"),
        (SAID | {"outputs": ["WT"]}, r"Threshold does not fit the outputs"),
    ],
    ids=["nothing", "too much", "channels", "labels with threshold", "regions without"],
)
def test_onnx_that_does_not_say_enough_is_refused(tmp_path, said, message):
    from ummgat.segment.describe import describe_onnx

    about = {"channels": 2, "ummgat": None if said is None else json.dumps(said)}
    with pytest.raises(ValueError, match=message):
        describe_onnx(tmp_path / "net.onnx", about, None, None)


def test_an_onnx_file_that_is_none_is_a_clear_error(tmp_path, opened):
    (tmp_path / "net.onnx").write_text("nothing")
    with pytest.raises(ValueError, match=r"Segmenter fails: .*net\.onnx"):
        opened(tmp_path / "net.onnx")
