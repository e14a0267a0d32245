import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import DOMAINS, slices, tiny_config
from ummgat.core.domain import DomainTable
from ummgat.core.draw import Draw
from ummgat.core.files import TEMPORARY, write_json
from ummgat.core.study import load_cohort
from ummgat.core.tensors import file_hash, load_tensors, save_tensors, without_prefix
from ummgat.model.networks import build_networks
from ummgat.model.weights import TrainedModel, load_model, save_model
from ummgat.train import loop as train_module
from ummgat.train.loop import NonFiniteLossError, plan, train
from ummgat.train.slices import SliceSampler, index_volumes
from ummgat.train.state import FORMAT, load_state, new_state, save_state, started_from
from ummgat.train.step import Step

CPU = torch.device("cpu")
ALWAYS = {"train__checkpoint_minutes": 1e-9}
"""Save after every step."""

SCRIPT = """
import json, sys, time
from pathlib import Path
from ummgat.core.config import Config
from ummgat.core.draw import load_draw
from ummgat.core.study import load_cohort
from ummgat.train.loop import train

folder = Path(sys.argv[1])
settings = json.loads((folder / "settings.json").read_text())

def on_step(step, parts, seconds):
    print(step, flush=True)
    if step == settings["pause_at"]:
        time.sleep(100)

train(
    Config.model_validate(settings["config"]), load_cohort(Path(settings["cohort"])), load_draw(folder / "draw.json"),
    folder / "run", accelerator="cpu", on_step=on_step,
)
"""
"""A training run as a process of its own: to be killed, or to be started once more by DDP."""


@pytest.fixture
def go(cohort_studies, strict_draw, tmp_path):
    """Train in `tmp_path/run` with changed settings."""

    def start(name="run", *, studies=None, draw=None, on_step=None, on_estimate=None, **changes):
        out = tmp_path / name
        train(
            tiny_config(**changes),
            studies or cohort_studies,
            draw or strict_draw,
            out,
            accelerator="cpu",
            on_step=on_step,
            on_estimate=on_estimate,
        )
        return out

    return start


def process(folder, cohort, draw, config, pause_at=None):
    """Start `SCRIPT` in its own session; the run goes to `folder/run`. It waits after step `pause_at`, to be killed."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    write_json(folder / "draw.json", draw.model_dump(mode="json"))
    settings = {"config": config.model_dump(mode="json"), "cohort": str(cohort), "pause_at": pause_at}
    write_json(folder / "settings.json", settings)
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py"), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(child, seconds=100):
    """Wait for it and its children; its output, or the error it ended with."""
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    assert child.returncode == 0, err
    return out


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def checkpoint_of(run):
    return load_tensors(run / "checkpoint.safetensors", FORMAT)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same_tensors(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def nothing_temporary(folder):
    return not list(folder.rglob(TEMPORARY + "*"))


# ---------------------------------------------------------------- a whole run


def test_run_folder(trained_run):
    """Four steps: everything a run leaves, and nothing else."""
    assert {p.name for p in trained_run.iterdir()} == {
        "config.json",
        "draw.json",
        "log.jsonl",
        "validation.jsonl",
        "tensorboard",
        "checkpoint.safetensors",
        "model.safetensors",
        "last.safetensors",
    }
    assert [line["step"] for line in lines(trained_run / "log.jsonl")] == [1, 2, 3, 4]
    assert {"d_real", "d_fake", "g_adv", "style", "seconds"} <= set(lines(trained_run / "log.jsonl")[0])
    (events,) = (trained_run / "tensorboard").iterdir()
    content = events.read_bytes()
    for tag in (b"loss/g_adv", b"validation/score", b"validation/translations"):
        assert tag in content
    assert json.loads((trained_run / "config.json").read_text()) == tiny_config().model_dump(mode="json")
    assert json.loads((trained_run / "draw.json").read_text())["domains"] == DOMAINS


def test_moving_average_is_ramped_by_hand(go):
    """After one step it is half the initial weights and half the new ones, whatever `ema_decay` says."""
    tensors, metadata = checkpoint_of(go(train__iterations=1))
    assert metadata["step"] == 1
    for name, module in build_networks(tiny_config().model, 4, seed=0).named():
        for key, start in module.state_dict().items():
            if name != "discriminator":
                now = tensors[f"nets.{name}.{key}"]
                expected = start * (2 / 4) + now * (2 / 4)
                torch.testing.assert_close(tensors[f"average.{name}.{key}"], expected, atol=1e-6, rtol=1e-5)
    assert not any(name.startswith("average.discriminator") for name in tensors)


def test_model_is_the_best_by_validation_and_last_is_the_last(go, monkeypatch):
    """Scores 2, 1, 3: the second is the best."""
    validate, scores = train_module.validate, iter([2.0, 1.0, 3.0])
    monkeypatch.setattr(train_module, "validate", lambda *args: validate(*args) | {"score": next(scores)})
    run = go(train__iterations=3, train__validate_every=1)
    assert [(line["step"], line["score"]) for line in lines(run / "validation.jsonl")] == [(1, 2), (2, 1), (3, 3)]
    for name, step, score in (("model", 2, 1), ("last", 3, 3)):
        model = load_model(run / f"{name}.safetensors")
        assert (model.training["steps"], model.criteria["score"]) == (step, score)
    assert checkpoint_of(run)[1]["best_score"] == 1


def test_log_holds_means_since_the_last_line(go):
    parts = []
    run = go(train__iterations=5, train__log_every=2, on_step=lambda step, p, seconds: parts.append(p))
    log = lines(run / "log.jsonl")
    assert [line["step"] for line in log] == [2, 4, 5]
    assert log[1]["g_adv"] == pytest.approx((parts[2]["g_adv"] + parts[3]["g_adv"]) / 2, abs=1e-5)
    assert log[2]["style"] == pytest.approx(parts[4]["style"], abs=1e-5)


def test_training_needs_no_tensorboard(go, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with caplog.at_level("INFO", logger="ummgat.train.loop"):
        run = go(train__iterations=2)
    assert not (run / "tensorboard").exists()
    assert [line["step"] for line in lines(run / "log.jsonl")] == [1, 2]
    assert "pip install 'ummgat[tensorboard]'" in caplog.text
    assert load_model(run / "model.safetensors").training["steps"] == 2


@pytest.mark.parametrize("changes", [{"train__schedule": "literal"}, {"train__precision": "bf16-mixed"}])
def test_other_ways_to_train_run_and_store_float32(go, changes):
    run = go(train__iterations=2, **changes)
    assert [line["step"] for line in lines(run / "log.jsonl")] == [1, 2]
    assert all(t.dtype in (torch.float32, torch.int64) for t in checkpoint_of(run)[0].values())
    assert load_model(run / "model.safetensors").training["steps"] == 2


def test_the_paired_schedule_needs_pairs_and_leaves_e_and_d_as_they_were(go, cohort_studies, strict_draw):
    """The strict draw gives each training subject one sequence: nothing to compare to."""
    with pytest.raises(ValueError, match="Draw has no pairs"):
        go(train__schedule="paired")
    pairs = {s.subject: list(s.acquired) for s in cohort_studies if s.subject in strict_draw.test and s.center == "A"}
    pairs = {name: [q for q in own if f"A/{q}" in strict_draw.domains] for name, own in pairs.items()}
    draw = strict_draw.model_copy(update={"train": strict_draw.train | pairs, "test": []})
    run = go("paired", draw=draw, train__iterations=2, train__schedule="paired")
    assert [set(line) for line in lines(run / "log.jsonl")] == [{"step", "paired", "seconds"}] * 2
    tensors, untrained = checkpoint_of(run)[0], build_networks(tiny_config().model, 4, 0)
    for name, module in untrained.named():
        same = all(torch.equal(tensors[f"nets.{name}.{key}"], value) for key, value in module.state_dict().items())
        assert same == (name in ("encoder", "discriminator"))


def test_estimate_is_positive_and_leaves_the_run_alone(go, cohort_studies, strict_draw):
    estimates = []
    with_estimate = go("a", train__iterations=2, on_estimate=estimates.append)
    without = go("b", train__iterations=2)
    assert_same_tensors(checkpoint_of(with_estimate)[0], checkpoint_of(without)[0])
    (found,) = estimates
    nets = build_networks(tiny_config().model, 4, 0)
    assert found.parameters == sum(p.numel() for _, m in nets.named() for p in m.parameters())
    assert found.seconds == pytest.approx(2 * found.seconds_per_step)
    assert found.seconds_per_step > 0
    assert found.memory_bytes > 50e6  # torch alone
    assert (found.device, found.threads) == ("cpu", 1)
    ahead = plan(tiny_config(train__iterations=1), cohort_studies, strict_draw)
    assert ahead.parameters == found.parameters


def test_nothing_of_test_subjects_is_opened(cohort, strict_draw, go, tmp_path):
    copied = shutil.copytree(cohort, tmp_path / "cohort")
    for subject in strict_draw.test:
        for path in (copied / subject).glob("*.nii"):
            path.unlink()
    assert (go(studies=load_cohort(copied), train__iterations=1) / "model.safetensors").is_file()


def test_without_true_images_validation_rests_on_unpaired_criteria(go):
    """The selection subject has one sequence of these domains."""
    train_with = {"Phantom_A_001": ["t1"], "Phantom_A_003": ["t2"], "Phantom_B_004": ["t1"]}
    domains = ["A/t1", "A/t2", "B/t1"]
    draw = Draw(mode="strict", seed=0, domains=domains, train=train_with, selection=["Phantom_B_001"], test=[])
    (found,) = lines(go(draw=draw, train__iterations=1) / "validation.jsonl")
    assert found["basis"] == "unpaired criteria"
    assert set(found["sources_basis"].values()) == {"unpaired criteria"}
    assert all(row["mae"] is None for row in found["directions"])
    assert {row["source"] for row in found["directions"]} == {"B/t1"}
    draw = draw.model_copy(update={"selection": []})
    (found,) = lines(go("none", draw=draw, train__iterations=1) / "validation.jsonl")
    assert (found["score"], found["basis"]) == (None, "no selection subjects")


# ---------------------------------------------------------------- resume


def test_20_steps_are_bit_for_bit_10_and_a_kill_and_the_rest(go, cohort, strict_draw, tmp_path):
    changes = {
        "train__iterations": 20,
        "train__log_every": 2,
        "train__lr_decay_from": 0.5,
        "train__r1_every": 2,
        "train__cycle_every": 3,
        "loss__structure": 1.0,
    }
    child = process(tmp_path / "killed", cohort, strict_draw, tiny_config(**changes, **ALWAYS), pause_at=11)
    for line in child.stdout:
        if int(line) == 11:
            child.kill()
            break
    assert child.wait() == -signal.SIGKILL
    child.communicate()
    run = tmp_path / "killed" / "run"
    assert checkpoint_of(run)[1]["step"] == 10  # the 11th was not saved yet
    with (run / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 18, "g_adv": 7}\n{"step": 20, "g_a')  # of steps that no checkpoint holds, and cut short

    seen = []
    resumed = go("killed/run", on_step=lambda step, parts, seconds: seen.append(step), **changes)
    straight = go("straight", **changes)
    assert seen == list(range(11, 21))
    (a, a_data), (b, b_data) = checkpoint_of(resumed), checkpoint_of(straight)
    assert_same_tensors(a, b)
    assert a_data["step"] == b_data["step"] == 20
    assert a_data["best_score"] == b_data["best_score"]
    assert any(name.startswith("optimizers.discriminator.") for name in a)
    for path in (resumed, straight):
        assert [line["step"] for line in lines(path / "log.jsonl")] == list(range(2, 21, 2))
    assert nothing_temporary(resumed)
    x, y = (load_tensors(p / "last.safetensors", "ummgat-model-4")[0] for p in (resumed, straight))
    assert_same_tensors(x, y)


def test_finished_run_is_left_alone_and_a_longer_one_goes_on(go):
    run = go(train__iterations=2)
    before = digest(run / "checkpoint.safetensors"), digest(run / "model.safetensors")
    go(train__iterations=2, on_step=lambda *_: pytest.fail("no step is left to do"))
    assert (digest(run / "checkpoint.safetensors"), digest(run / "model.safetensors")) == before
    go(train__iterations=3, train__log_every=3, train__checkpoint_minutes=9.0, train__validate_every=7)
    assert checkpoint_of(run)[1]["step"] == 3
    assert [line["step"] for line in lines(run / "log.jsonl")] == [1, 2, 3]


def test_other_settings_are_refused_and_all_listed(go):
    run = go(train__iterations=1)
    before = {p: digest(p) for p in run.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="Checkpoint belongs to another run") as caught:
        go(train__iterations=2, train__batch=4, loss__lesion=0.5, model__code_dim=6)
    for told in ("train.batch 2 → 4", "loss.lesion 1.0 → 0.5", "model.code_dim 4 → 6", str(run)):
        assert told in str(caught.value)
    assert "iterations" not in str(caught.value)
    assert {p: digest(p) for p in run.rglob("*") if p.is_file()} == before


def test_checkpoint_of_other_domains_is_refused(go, strict_draw):
    go(train__iterations=1)
    other = strict_draw.model_copy(update={"domains": DOMAINS[::-1]})
    with pytest.raises(ValueError, match=r"Found different draw; expected the same settings"):
        go(draw=other, train__iterations=1)


def moved_voxels(folder, subject, sequence):
    path = folder / subject / f"{sequence}.nii"
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.where(data > 0, 256 - data.astype(int), 0).astype(np.uint8), image.affine), path)


def removed_annotation(folder, subject, sequence):
    record = json.loads((folder / subject / "study.json").read_text(encoding="utf-8"))
    write_json(folder / subject / "study.json", record | {"labels_file": None})


def shifted_grid(folder, subject, sequence):
    record = json.loads((folder / subject / "study.json").read_text(encoding="utf-8"))
    record["original_grid"]["affine"][0][3] += 1.0
    record["grid"]["affine"][0][3] += 1.0
    write_json(folder / subject / "study.json", record)


@pytest.mark.parametrize("change", [moved_voxels, removed_annotation, shifted_grid])
@pytest.mark.parametrize("part", ["train", "selection"])
def test_a_run_goes_on_with_its_own_data_only(cohort, strict_draw, tmp_path, change, part):
    folder = shutil.copytree(cohort, tmp_path / "cohort")
    subject = min(strict_draw.train) if part == "train" else strict_draw.selection[0]
    sequence = strict_draw.train[subject][0] if part == "train" else "t2"

    def run(steps, **options):
        studies, out = load_cohort(folder), tmp_path / "run"
        return train(tiny_config(train__iterations=steps), studies, strict_draw, out, accelerator="cpu", **options)

    run(1)
    change(folder, subject, sequence)
    before = digest(tmp_path / "run" / "checkpoint.safetensors")
    with pytest.raises(ValueError, match=rf"trained on other data: .*Found 1 changed \({subject}\)") as caught:
        run(2)
    assert "--changed-data" in str(caught.value)
    assert digest(tmp_path / "run" / "checkpoint.safetensors") == before
    best = run(2, changed_data=True)
    assert load_model(best.with_name("last.safetensors")).training.get("data_changed_after") == [1]
    assert checkpoint_of(tmp_path / "run")[1]["data_changed"] == [1]
    run(3)  # it now knows the present data, and asks no more


def test_what_a_run_never_sees_may_change(cohort, strict_draw, tmp_path):
    folder = shutil.copytree(cohort, tmp_path / "cohort")
    for steps in (1, 2):
        train(
            tiny_config(train__iterations=steps), load_cohort(folder), strict_draw, tmp_path / "run", accelerator="cpu"
        )
        subject = strict_draw.test[0]
        moved_voxels(folder, subject, "t2")
    assert checkpoint_of(tmp_path / "run")[1]["step"] == 2


def test_a_checkpoint_that_does_not_know_its_data_goes_on_and_says_so(go, caplog):
    run = go(train__iterations=1)
    tensors, metadata = checkpoint_of(run)
    del metadata["data"]
    save_tensors(run / "checkpoint.safetensors", tensors, metadata)
    go(train__iterations=2)
    assert "does not say what it was trained on" in caplog.text


def test_damaged_checkpoint_is_named(go):
    run = go(train__iterations=1)
    content = (run / "checkpoint.safetensors").read_bytes()
    (run / "checkpoint.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"damaged: .*checkpoint\.safetensors"):
        go(train__iterations=2)


def test_checkpoint_of_another_architecture_is_refused(go, strict_draw):
    """Same settings, but code of another version gave the networks other tensors."""
    path = go(train__iterations=1) / "checkpoint.safetensors"
    tensors, metadata = load_tensors(path, FORMAT)
    save_tensors(path, {k: v for k, v in tensors.items() if not k.startswith("nets.mapper.shared.0")}, metadata)
    with pytest.raises(ValueError, match=r"Checkpoint holds another architecture: .*checkpoint\.safetensors"):
        load_state(path, tiny_config(train__iterations=1), strict_draw, CPU)


# ---------------------------------------------------------------- stopping


def poisoned_from(step, monkeypatch):
    """Make the noise of every batch from `step` on not a number."""
    drawn = train_module.to_tensors
    calls = iter(range(10_000))

    def draw(*args, **kwargs):
        batch = drawn(*args, **kwargs)
        return batch._replace(z=batch.z * float("nan")) if next(calls) >= step else batch

    monkeypatch.setattr(train_module, "to_tensors", draw)


def test_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(go, strict_draw, tmp_path, monkeypatch):
    run, kept = tmp_path / "run", []
    poisoned_from(2, monkeypatch)
    with pytest.raises(NonFiniteLossError, match=r"Loss is not finite: step 2\. .*nan.*Lower the learning rates"):
        go(on_step=lambda step, *_: kept.append(step), **ALWAYS)
    monkeypatch.undo()
    assert kept == [1, 2]
    state = load_state(run / "checkpoint.safetensors", tiny_config(**ALWAYS), strict_draw, CPU)
    assert state.step == 2
    assert nothing_temporary(run)
    go(**ALWAYS)
    assert checkpoint_of(run)[1]["step"] == 4


def test_weights_that_are_not_numbers_are_not_saved(tmp_path, strict_draw):
    config, path = tiny_config(), tmp_path / "checkpoint.safetensors"
    state = new_state(config, 4, CPU)
    save_state(path, state, config, strict_draw)
    before = digest(path)
    next(state.nets.mapper.parameters()).data[0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"Weights are not finite after step 0\. .*checkpoint\.safetensors"):
        save_state(path, state, config, strict_draw)
    assert digest(path) == before
    assert nothing_temporary(tmp_path)


def test_networks_that_blew_up_are_not_exported_as_the_best(go, tmp_path):
    """The first loss is finite, the weights after it are of the order of 1e20: only validation can tell."""
    with pytest.raises(NonFiniteLossError, match=r"not finite: step 1\."):
        go(train__lr_generator=1e20, train__validate_every=1)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_ctrl_c_leaves_the_last_checkpoint_loadable(go, strict_draw, tmp_path):
    def stop(step, parts, seconds):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(on_step=stop, **ALWAYS)
    run = tmp_path / "run"
    assert load_state(run / "checkpoint.safetensors", tiny_config(**ALWAYS), strict_draw, CPU).step == 2
    assert nothing_temporary(run)


# ---------------------------------------------------------------- what does not fit


def test_cohort_and_config_of_other_voxel_sizes_do_not_fit(go, tmp_path):
    with pytest.raises(ValueError, match=r"Cohort and config disagree on voxel size"):
        go(data__spacing_mm=2.0)
    assert not (tmp_path / "run").exists()


def test_draw_of_another_cohort_does_not_fit(go, cohort_studies):
    with pytest.raises(ValueError, match="Draw names a subject that the cohort lacks"):
        go(studies=cohort_studies[5:])


def test_batch_must_divide_among_devices(go):
    with pytest.raises(ValueError, match=r"Bad train\.batch\. Found 3 for 2 devices; expected a multiple"):
        go(train__batch=3, train__devices=2)


# ---------------------------------------------------------------- two processes


def pairs_by_half(sampler, step):
    """Lesion pairs of both halves of the batch of four."""
    batch = sampler.batch(step, 4, 4)
    both = batch.lesion_src.any((1, 2, 3)) & batch.lesion_ref.any((1, 2, 3))
    return int(both[:2].sum()), int(both[2:].sum())


def networks_in(tensors):
    """Networks of a checkpoint."""
    nets = build_networks(tiny_config().model, 4, 0)
    for name, module in nets.named():
        module.load_state_dict(without_prefix(f"nets.{name}", tensors))
    return nets


@torch.no_grad()
def answers(nets, x):
    """What each network says to the same question."""
    y = torch.arange(4)
    codes = nets.mapper(torch.ones(4, 4), y)
    return {
        "generator": nets.generator(x, torch.ones(4, 4).cumsum(1), torch.eye(4)),
        "encoder": nets.encoder(x, y + 4),  # lesion heads
        "mapper": codes,
        "discriminator": nets.discriminator(x, y),
    }


def test_two_processes_learn_what_one_does_from_the_same_batch(go, cohort, cohort_studies, strict_draw, tmp_path):
    """Some reference pass has lesion pairs for one process only, where E must still learn on both alike."""
    n = 2
    volumes = index_volumes(cohort_studies, strict_draw, tiny_config().data)
    samplers = (SliceSampler(volumes, 4, tiny_config().data, seed) for seed in range(100))
    seed = next(s.seed for s in samplers if sorted(min(1, found) for found in pairs_by_half(s, 1)) == [0, 1])
    # Few and small steps: Adam magnifies rounding, and it grows from step to step.
    changes = {"train__batch": 4, "train__iterations": n, "train__seed": seed, "train__lr_generator": 1e-4}
    changes["train__schedule"] = "alternating"
    child = process(tmp_path / "two", cohort, strict_draw, tiny_config(train__devices=2, **changes))
    single = go("one", **changes)
    assert finish(child).split() == ["1", "2"]  # the first process alone reports
    double = tmp_path / "two" / "run"

    (a, a_data), (b, b_data) = checkpoint_of(double), checkpoint_of(single)
    assert a_data["step"] == b_data["step"] == n
    assert a.keys() == b.keys()
    x = torch.from_numpy(slices(4, 20, 24))
    start = answers(build_networks(tiny_config().model, 4, seed), x)
    (two, one) = (answers(networks_in(tensors), x) for tensors in (a, b))
    for name, before in start.items():
        moved, apart = (one[name] - before).norm(), (one[name] - two[name]).norm()
        assert moved > 0
        assert apart < 0.05 * moved, name

    assert {p.name for p in double.iterdir()} == {p.name for p in single.iterdir()}
    assert [line["step"] for line in lines(double / "log.jsonl")] == [1, 2]
    assert len(lines(double / "validation.jsonl")) == 1
    assert len(list((double / "tensorboard").iterdir())) == 1
    assert nothing_temporary(double)


def test_averaged_gradients_of_both_halves_are_those_of_the_whole(cohort_studies, strict_draw):
    """The same without processes: gradients of E in a reference pass, one half with lesion pairs and one without."""
    config = tiny_config(train__batch=4)
    volumes = index_volumes(cohort_studies, strict_draw, config.data)
    sampler = SliceSampler(volumes, 4, config.data, 0)
    step = next(s for s in range(100) if sorted(min(1, f) for f in pairs_by_half(sampler, s)) == [0, 1])
    whole = sampler.batch(step, 4, 4)

    def gradients(rank, world_size):
        state = new_state(config, 4, CPU)
        called = []
        runner = Step(state.nets, state.optimizers, config, lambda p: called.append(len(list(p))))
        runner.run(train_module.to_tensors(whole, CPU, rank, world_size), 1)
        zero = [torch.zeros_like(p) if p.grad is None else p.grad for p in state.nets.encoder.parameters()]
        return zero, called

    (first, a), (second, b), (expected, c) = gradients(0, 2), gradients(1, 2), gradients(0, 1)
    assert a == b == c  # every process averages the same networks in the same order, or all would wait for ever
    for x, y, z in zip(first, second, expected, strict=True):
        torch.testing.assert_close((x + y) / 2, z, atol=1e-6, rtol=1e-4)
    assert any(z.abs().max() > 0 for z in expected)


def test_each_process_has_its_own_share_of_the_same_batch(cohort_studies, strict_draw):
    volumes = index_volumes(cohort_studies, strict_draw, tiny_config().data)
    whole = SliceSampler(volumes, 4, tiny_config().data, 0).batch(0, 4, 3)
    halves = [train_module.to_tensors(whole, CPU, rank, 2) for rank in (0, 1)]
    np.testing.assert_array_equal(torch.cat([h.x_src for h in halves]), whole.x_src)
    np.testing.assert_array_equal(torch.cat([h.y_trg for h in halves]), whole.y_trg)
    np.testing.assert_array_equal(torch.cat([h.z for h in halves], dim=1), whole.z)


def test_a_run_that_started_from_a_model_says_so_after_resuming_too(cohort_studies, strict_draw, model_path, tmp_path):
    config = tiny_config(train__iterations=2)
    out = tmp_path / "run"
    train(config, cohort_studies, strict_draw, out, accelerator="cpu", start_from=model_path)
    told = file_hash(model_path)
    assert load_model(out / "last.safetensors").training["started_from"] == told
    longer = tiny_config(train__iterations=3)
    train(longer, cohort_studies, strict_draw, out, accelerator="cpu")
    trained = load_model(out / "last.safetensors").training
    assert (trained["steps"], trained["started_from"]) == (3, told)


def test_a_run_at_half_the_voxel_size_goes_on_from_the_weights_of_a_coarse_one(tmp_path):
    """The same image at twice the pixels gives the same tokens, so the same codes and nearly the same image."""
    coarse = tiny_config(model__atlas=True, model__gate="code")
    table = DomainTable.from_names(["A/t1", "A/t2"])
    nets = build_networks(coarse.model, 2, 3)
    codes = {name: torch.zeros(2, 4) for name in ("mean", "mapper")}
    model = TrainedModel(
        nets=nets, table=table, config=coarse, codes=codes, histograms=np.full((2, 256), 1 / 256),
        spreads=np.zeros((2, 2, 5)), flickers=np.zeros(2), lesions=np.zeros((2, 3)), lesion_spreads=np.zeros((2, 3)),
        atlas=None, criteria={}, training={}, version="", hash="",
    )  # fmt: skip
    save_model(tmp_path / "coarse.safetensors", model)
    fine = tiny_config(
        model__atlas=True, model__gate="code", model__patch=4, model__encoder_pool=2, data__crop=[40, 48]
    )
    state = started_from(tmp_path / "coarse.safetensors", fine, table, torch.device("cpu"))
    x = torch.from_numpy(slices(2, 20, 24))
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    y = torch.tensor([0, 1])
    with torch.no_grad():
        a, b = (n.encoder(image, y) for n, image in ((nets, x), (state.average, large)))
        torch.testing.assert_close(a, b)
        one, two = nets.generator(x, a, a), state.average.generator(large, a, a)
    enlarged = one.repeat_interleave(2, 2).repeat_interleave(2, 3)
    brain = large > -1
    assert (enlarged - two)[brain].abs().mean() < 0.35 * enlarged[brain].std()
    other = tiny_config(model__atlas=True, model__gate="code", model__patch=3, data__crop=[18, 24])
    with pytest.raises(ValueError, match="which is no multiple"):
        started_from(tmp_path / "coarse.safetensors", other, table, torch.device("cpu"))
