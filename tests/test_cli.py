import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import pytest
from typer.testing import CliRunner

from bad_nifti import brain, save
from conftest import tiny_config
from ummgat import cli
from ummgat.cli import app, message_of
from ummgat.core.config import load_config
from ummgat.core.draw import load_draw
from ummgat.core.files import write_json
from ummgat.core.study import load_study
from ummgat.core.version import __version__
from ummgat.train.overrides import as_toml

COMMANDS = ("doctor", "phantom", "inspect", "prepare", "draw", "train", "complete", "train-segmenter", "evaluate",
            "report", "directions", "demo", "quality", "compare", "cross-center", "rate", "export")  # fmt: skip
FORM = re.compile(r"Error: .+[:.] Found .+; expected .+\. [A-Z].+\.\s*$", re.DOTALL)
"""<what>: <where>. Found <value>; expected <value>. <Next action>."""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder whose name has what trips careless programs: space, umlaut, brackets (rich's markup)."""
    folder = tmp_path / "Größe [bold] 2 mm"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(*arguments):
    """Run a command in this process; the result has exit_code, stdout and stderr."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*arguments, code=2):
    """Run a command that must fail with one clean message; returns the message."""
    result = run(*arguments)
    assert result.exit_code == code
    assert "Traceback" not in result.stderr
    assert FORM.match(result.stderr), result.stderr
    return result.stderr


@pytest.fixture(scope="session")
def draw_file(strict_draw, tmp_path_factory):
    path = tmp_path_factory.mktemp("draw") / "draw.json"
    write_json(path, strict_draw.model_dump(mode="json"))
    return path


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(as_toml(tiny_config()), encoding="utf-8")
    return path


# --- the whole program ---------------------------------------------------------------------------------------------


def test_every_command_explains_itself():
    overview = run("--help")
    assert overview.exit_code == 0
    for command in COMMANDS:
        assert command in overview.stdout
        page = run(command, "--help")
        assert page.exit_code == 0
        assert len(page.stdout) > 200
    assert run("--version").stdout.strip() == f"ummgat {__version__}"


def test_help_waits_for_no_heavy_import():
    code = "import sys, ummgat.cli; print({'torch', 'numpy', 'scipy', 'nibabel', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_usage_errors_exit_with_2():
    assert run("prepare").exit_code == 2
    assert run("nonsense").exit_code == 2
    assert run("draw", "a", "b", "--mode", "sometimes").exit_code == 2


def test_debug_shows_the_traceback_wherever_it_stands(work):
    command = [sys.executable, "-m", "ummgat", "draw", "nowhere", "d.json", "--mode", "strict"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert plain.returncode == debug.returncode == 2
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert debug.stderr.endswith(plain.stderr)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(28, "Disk is full: out. Found no space; expected room for it. Free some."),
            "Disk is full: out. Found no",
        ),
        (PermissionError(13, "Permission denied", "out/x"), "Permission denied: out/x. Check the path."),
        (ValueError(), "ValueError. Run again with --debug for more."),
    ],
)
def test_messages_of_errors_that_are_not_ours(error, message):
    assert message_of(error).startswith(message)


def test_errors_of_the_training_exit_with_1_and_bugs_keep_their_traceback(monkeypatch, work):
    def diverges(folder):
        raise FloatingPointError("Loss is not finite: step 3. Found NaN; expected numbers. Lower the learning rates.")

    monkeypatch.setattr("ummgat.core.study.load_cohort", diverges)
    assert "Loss is not finite" in refused("draw", "c", "d.json", "--mode", "all", code=1)

    def bug(folder):
        raise KeyError("not for users")

    monkeypatch.setattr("ummgat.core.study.load_cohort", bug)
    with pytest.raises(KeyError):
        run("draw", "c", "d.json", "--mode", "all")


def test_a_terminal_that_knows_only_ascii_is_no_obstacle(work):
    command = [sys.executable, "-m", "ummgat", "phantom", "für später", "--preset", "tiny", "--centers", "A=1"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert r"f\xfcr" in done.stdout
    assert (work / "für später" / "split.json").is_file()


# --- doctor --------------------------------------------------------------------------------------------------------


def test_doctor_prints_a_table_or_json():
    table = run("doctor")
    assert table.exit_code == 0
    for word in ("python", "torch", "train.precision", "device cpu", "extra dev", "bundled model", "free disk"):
        assert word in table.stdout
    assert json.loads(run("doctor", "--json").stdout)["versions"]["ummgat"] == __version__


def test_doctor_exits_with_1_when_something_is_missing(monkeypatch):
    monkeypatch.setattr("ummgat.doctor._version", lambda name: None if name == "scipy" else "1.0")
    result = run("doctor")
    assert result.exit_code == 1
    assert "Package is missing: scipy" in result.stderr


# --- phantom -------------------------------------------------------------------------------------------------------


def test_phantom_starts_from_a_preset_and_takes_options(work):
    result = run("phantom", "tiny ü", "--preset", "tiny", "--centers", "A=2,C=1", "--test", "C=1",
                 "--sequences", "A=t1,t2", "--layout", "brats2023", "--seed", "7", "--draw", "complete")  # fmt: skip
    assert result.exit_code == 0
    settings = json.loads((work / "tiny ü" / "phantom.json").read_text(encoding="utf-8"))
    assert settings["n_subjects"] == {"A": 2, "C": 1}
    assert settings["n_test"] == {"C": 1}
    assert settings["n_selection"] == {"A": 1}  # of the preset, for the centers that are left
    assert settings["sequences"] == {"A": ["t1", "t2"], "C": ["t1", "t1ce", "t2", "flair"]}
    assert (settings["layout"], settings["seed"], settings["grid"]) == ("brats2023", 7, "analytic")
    assert (work / "tiny ü" / "studies" / "Phantom_C_001" / "Phantom_C_001-t2f.nii.gz").is_file()
    assert re.search(r"A +t1 t2 +2 +1 +0", result.stdout)


def test_phantom_refuses_what_it_cannot_write(work):
    assert run("phantom", "p", "--preset", "tiny").exit_code == 0
    assert "--overwrite" in refused("phantom", "p", "--preset", "tiny")
    assert run("phantom", "p", "--preset", "tiny", "--overwrite").exit_code == 0
    assert "--centers" in refused("phantom", "new", "--centers", "A")
    assert "--sequences" in refused("phantom", "new", "--sequences", "t1")
    assert "Unknown sequence" in refused("phantom", "new", "--sequences", "A=t9")
    assert "Centers do not agree" in refused("phantom", "new", "--test", "Z=1")
    assert not (work / "new").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_exits_with_130_and_leaves_nothing_half_written(work):
    command = [sys.executable, "-m", "ummgat", "phantom", "big", "--spacing", "1"]
    # A shell that runs the tests in the background has them, and so their children, ignore SIGINT.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not (work / "big" / "phantom.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert complaint.startswith("Stopped by the user.")
    assert "Traceback" not in complaint
    assert not list(work.rglob(".tmp-ummgat-*"))
    assert not (work / "big" / "split.json").exists()


# --- prepare -------------------------------------------------------------------------------------------------------


def test_prepare_says_what_it_would_do_then_does_it_then_has_nothing_to_do(phantom, work):
    arguments = ("prepare", phantom / "studies", "Kohorte ü", "--spacing", 1, "--centers", phantom / "centers.csv")
    planned = run(*arguments, "--dry-run")
    assert planned.exit_code == 0
    assert planned.stdout.count("prepare (new)") == 10
    assert "10 to prepare, 0 would fail" in planned.stdout
    assert list(work.iterdir()) == []
    done = run(*arguments)
    assert done.exit_code == 0
    assert "10 prepared, 0 up to date, 0 failed" in done.stdout
    assert re.search(r"Phantom_B_003 +B +t1 t2 +\d", done.stdout)
    assert load_study(work / "Kohorte ü" / "Phantom_A_005").center == "A"
    assert "0 prepared, 10 up to date, 0 failed" in run(*arguments).stdout


def test_prepare_reports_a_bad_study_does_the_rest_and_exits_with_1(work):
    for name in ("good", "bad"):
        save(work / "raw" / name / "t1.nii.gz", brain())
        save(work / "raw" / name / "t1_generated.nii.gz", brain())
        save(work / "raw" / name / "adc.nii.gz", brain())
    save(work / "raw" / "bad" / "t2.nii.gz", brain(shape=(10, 10, 10)))
    result = run("prepare", "raw", "out", "--center", "A")
    assert result.exit_code == 1
    assert "1 prepared, 0 up to date, 1 failed" in result.stdout
    assert "adc.nii.gz" in result.stdout
    assert "its name says generated" in result.stdout
    assert "\nbad: t1 and t2 of subject bad are on different grids" in result.stderr
    assert load_study(work / "out" / "good").sequences == ["t1"]
    assert not (work / "out" / "bad").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--center", "A", "--center-pattern", "(x)"], "center and center_pattern"),
        ([], "Found nothing"),
        (["--center", "A/B"], "Unsafe center name"),
        (["--center", "A", "--layout", "dicom"], "Unknown layout"),
        (["--center", "A", "--spacing", "99"], "spacing_mm"),
        (["--center", "A", "--jobs", "0"], "--jobs"),
        (["--centers", "keine Datei.csv"], "keine Datei.csv"),
        (["--center-pattern", "("], "--center-pattern"),
    ],
)
def test_prepare_refuses_unclear_requests(work, arguments, part):
    save(work / "raw" / "p1" / "t1.nii.gz", brain())
    assert part in refused("prepare", "raw", "out", *arguments)
    assert not (work / "out").exists()


def test_prepare_refuses_an_empty_and_a_missing_folder(work):
    (work / "empty").mkdir()
    assert "No study recognised" in refused("prepare", "empty", "out", "--center", "A")
    assert "Source folder is missing" in refused("prepare", "nowhere", "out", "--center", "A")
    assert not (work / "out").exists()


# --- draw ----------------------------------------------------------------------------------------------------------


def test_draw_counts_volumes_per_domain_and_never_overwrites_unasked(cohort, phantom, work):
    arguments = ("draw", cohort, "Ziehung ü.json", "--split", phantom / "split.json", "--mode")
    result = run(*arguments, "strict", "--domains", "A/t1,A/t2, B/t1")
    assert result.exit_code == 0
    drawn = load_draw(work / "Ziehung ü.json")
    assert drawn.domains == ["A/t1", "A/t2", "B/t1"]
    assert re.search(r"A/t1 +1 *\n", result.stdout)
    assert "2 selection, 2 test subjects" in result.stdout
    assert "Output exists already" in refused(*arguments, "all")
    assert load_draw(work / "Ziehung ü.json") == drawn
    assert run(*arguments, "all", "--overwrite").exit_code == 0
    assert load_draw(work / "Ziehung ü.json").mode == "all"


def test_draw_refuses_domains_that_are_not_there(cohort, work):
    assert "A/swi" in refused("draw", cohort, "d.json", "--mode", "strict", "--domains", "A/t1,A/swi")
    assert "Unknown sequence" in refused("draw", cohort, "d.json", "--mode", "strict", "--domains", "A/t9")
    assert "No prepared study found" in refused("draw", ".", "d.json", "--mode", "strict")
    assert "File is missing" in refused("draw", cohort, "d.json", "--mode", "strict", "--split", "no.json")
    assert list(work.iterdir()) == []


# --- train ---------------------------------------------------------------------------------------------------------


def test_train_estimates_trains_and_finds_nothing_left_to_do(cohort, draw_file, config_file, work):
    arguments = ("train", config_file, "--data", cohort, "--draw", draw_file, "--out", "Lauf ü", "--device", "cpu",
                 "--set", "train.iterations=2")  # fmt: skip
    result = run(*arguments)
    assert result.exit_code == 0
    assert re.search(r"million parameters; [\d.]+ s per step on cpu with 1 threads", result.stdout)
    assert result.stdout.index("million parameters") < result.stdout.index("step 1/2")
    assert "step 2/2  0 s left  d_real" in result.stdout
    assert "validation score" in result.stdout
    assert (work / "Lauf ü" / "model.safetensors").is_file()
    assert json.loads((work / "Lauf ü" / "config.json").read_text(encoding="utf-8"))["train"]["iterations"] == 2
    again = run(*arguments)
    assert again.exit_code == 0
    assert "Going on from step 2" in again.stdout
    assert "another run" in refused(*arguments, "--set", "loss.cycle=2")


def test_train_dry_run_prints_a_config_that_reads_back(cohort, draw_file, config_file, work):
    result = run(
        "train",
        config_file,
        "--data",
        cohort,
        "--draw",
        draw_file,
        "--out",
        "run",
        "--dry-run",
        "--set",
        "train.batch=3",
    )
    assert result.exit_code == 0
    toml, _, estimate = result.stdout.partition("\n\n0.")
    (work / "printed.toml").write_text(toml, encoding="utf-8")
    assert load_config("printed.toml") == tiny_config(train__batch=3)
    assert "s per step" in estimate
    assert not (work / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--set", "train.bach=3"], "train.bach"),
        (["--set", "data.spacing_mm=3"], "ummgat prepare --spacing 3.0"),
        (["--set", "data.crop=[21, 24]"], "divisible"),
        (["--draw", "no.json"], "no.json"),
        (["--data", "nowhere"], "No prepared study found: nowhere"),
    ],
)
def test_train_refuses_before_anything_is_written(cohort, draw_file, config_file, work, arguments, part):
    given = ["train", config_file, "--data", cohort, "--draw", draw_file, "--out", "run", *arguments]
    assert part in refused(*given)
    assert "huge" in refused("train", "huge", *given[2:])
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("saved", [True, False])
def test_stopping_training_says_how_to_go_on(cohort, draw_file, config_file, work, monkeypatch, saved):
    def stopped(config, studies, draw, out, **_):
        out.mkdir()
        if saved:
            (out / "checkpoint.safetensors").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("ummgat.train.loop.train", stopped)
    result = run("train", config_file, "--data", cohort, "--draw", draw_file, "--out", "run")
    assert result.exit_code == 130
    assert ("goes on from run/checkpoint" if saved else "starts anew") in result.stderr.replace("\\", "/")


def test_further_processes_of_a_run_print_errors_only(cohort, draw_file, config_file, work, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    try:
        result = run("train", config_file, "--data", cohort, "--draw", draw_file, "--out", "run", "--dry-run")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "nowhere" in refused("train", "tiny", "--data", "nowhere", "--draw", draw_file, "--out", "run")
    finally:
        cli.terminal.console.quiet = False


def test_two_processes_train_one_model_and_print_once(cohort, draw_file, config_file, work):
    command = [sys.executable, "-m", "ummgat", "train", str(config_file), "--data", str(cohort), "--draw",
               str(draw_file), "--out", "Lauf zu zweit", "--device", "cpu", "--set", "train.devices=2",
               "--set", "train.iterations=2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("million parameters") == 1
    assert done.stdout.count("step 2/2") == 1
    assert (work / "Lauf zu zweit" / "model.safetensors").is_file()


# --- complete ------------------------------------------------------------------------------------------------------


def test_complete_fills_a_cohort_and_warns_of_contrast(cohort, model_path, work):
    (work / "in").mkdir()
    for subject in ("Phantom_A_001", "Phantom_A_005"):
        shutil.copytree(cohort / subject, work / "in" / subject)
    result = run("complete", "in", "fertig ü", "--model", model_path, "--from", "t1", "--device", "cpu")
    assert result.exit_code == 0
    assert "2 studies done, 0 up to date, 0 failed; 2 images generated" in result.stdout
    assert "nothing was missing" in result.stdout
    assert "\nWarning: t1ce was generated without any contrast-enhanced source" in result.stderr
    again = run("complete", "in", "fertig ü", "--model", model_path, "--from", "t1", "--device", "cpu", "--jobs", "2")
    assert (again.exit_code, "0 studies done, 2 up to date, 0 failed" in again.stdout) == (0, True)
    assert "Warning: t1ce was generated" in again.stderr
    assert result.stderr.endswith("Studies: Phantom_A_001\n")
    study = load_study(work / "fertig ü" / "Phantom_A_001")
    assert {q: image.kind for q, image in study.record.images.items()} == {
        "t1": "acquired",
        "t1ce": "generated",
        "t2": "generated",
    }


def test_complete_reports_failed_studies_and_exits_with_1(phantom, model_path, work):
    for subject in ("Phantom_A_001", "Phantom_A_002"):
        shutil.copytree(phantom / "studies" / subject, work / "in" / subject)
    broken = work / "in" / "Phantom_A_002" / "Phantom_A_002_t1ce.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    arguments = ("complete", "in", "out", "--model", model_path, "--center", "A", "--target", "t2", "--no-reliability",
                 "--from", "t1")  # fmt: skip
    result = run(*arguments)
    assert result.exit_code == 1
    assert "1 studies done, 0 up to date, 1 failed; 1 images generated" in result.stdout
    assert "Phantom_A_002: " in result.stderr
    assert sorted(p.name for p in (work / "out").iterdir()) == ["Phantom_A_001"]
    written = work / "out" / "Phantom_A_001"
    assert not list(written.glob("*reliability*"))
    original = nib.load(work / "in" / "Phantom_A_001" / "Phantom_A_001_t1.nii.gz")
    generated = nib.load(written / "Phantom_A_001_t2_generated.nii.gz")
    assert generated.shape == original.shape
    assert (generated.affine == original.affine).all()
    assert "0 studies done, 1 up to date, 1 failed" in run(*arguments).stdout
    assert "Result exists already" in run(*arguments, "--fuse").stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--model", "keins.safetensors"], "keins.safetensors"),
        (["--model", "half.safetensors"], "Weights file is damaged: half.safetensors"),
        (["--reference", "t2"], "--reference"),
        (["--reference", "t2=x.nii.gz", "--mode", "reference"], "Center of the reference image is unknown"),
    ],
)
def test_complete_refuses_before_anything_is_written(cohort, model_path, work, arguments, part):
    (work / "half.safetensors").write_bytes(model_path.read_bytes()[: model_path.stat().st_size // 2])
    given = arguments if "--model" in arguments else ["--model", model_path, *arguments]
    assert part in refused("complete", cohort, "out", *given)
    assert "Input is missing" in refused("complete", "nowhere", "out", "--model", model_path)
    assert not (work / "out").exists()


def test_complete_without_a_model_takes_the_bundled_one_or_asks_for_one(cohort, work, monkeypatch):
    monkeypatch.setattr("ummgat.core.machine.bundled_file", lambda name: None)
    assert "Give --model" in refused("complete", cohort, "out")
    asked = []
    monkeypatch.setattr("ummgat.core.machine.bundled_file", lambda name: work / "weights.safetensors")
    monkeypatch.setattr(
        "ummgat.completion.cohort.complete", lambda *a, **k: asked.append(a[2]) or pytest.fail("enough")
    )
    with pytest.raises(pytest.fail.Exception):
        run("complete", cohort, "out")
    assert asked == [work / "weights.safetensors"]


# --- directions ----------------------------------------------------------------------------------------------------


def test_directions_measures_test_subjects_and_writes_table_and_pictures(work, cohort, model_path, draw_file):
    result = run("directions", cohort, work / "out", "--model", model_path, "--draw", draw_file)
    assert result.exit_code == 0
    assert "generated beats the matched copy in" in result.stdout
    assert {"directions.csv", "directions.md"} < {path.name for path in (work / "out").iterdir()}
    assert list((work / "out").glob("*.png"))
    refused("directions", cohort, work / "out", "--model", model_path, "--draw", draw_file)  # never replaced unasked


def test_directions_without_the_subjects_of_the_draw_says_so(work, cohort, model_path, strict_draw):
    elsewhere = strict_draw.model_copy(update={"test": ["Nobody"]}).model_dump(mode="json")
    write_json(work / "draw.json", elsewhere)
    message = refused("directions", cohort, work / "out", "--model", model_path, "--draw", work / "draw.json")
    assert "Nobody" in message
    assert not (work / "out").exists()


# --- segmenters, evaluation, report ----------------------------------------------------------------------------------


@pytest.fixture
def paired(phantom, cohort_studies, work):
    """A draw of complete subjects of center A: one trains a segmenter, one selects, one tests."""
    complete = [s.subject for s in cohort_studies if s.center == "A" and len(s.sequences) == 4]
    drawn = {
        "mode": "all",
        "seed": 0,
        "domains": ["A/t1", "A/t1ce", "A/t2"],
        "selection": complete[1:2],
        "test": complete[:1],
    }
    others = [s.subject for s in cohort_studies if s.center == "A" and s.subject not in complete[:2]]
    write_json(work / "d.json", drawn | {"format": "ummgat-draw-1", "train": {others[0]: ["t1"]}})
    return work / "d.json", complete


def test_from_segmenter_to_report(cohort, model_path, paired, work, monkeypatch):
    draw, (tested, selected) = paired
    drawn = json.loads(draw.read_text(encoding="utf-8"))
    write_json(work / "train.json", drawn | {"train": {selected: ["t1"]}, "selection": [], "test": [tested]})
    given = ["--data", cohort, "--draw", work / "train.json", "--out", "seg", "--spacing", "1"]
    result = run("train-segmenter", *given, "--sequences", "t1,t1ce,t2", "--iterations", "2", "--device", "cpu")
    assert result.exit_code == 0
    assert "Trained on 1 subjects" in result.stdout
    call = ["evaluate", cohort, "ev", "--draw", work / "train.json", "--segmenter", "seg/segmenter.safetensors"]
    call += ["--model", model_path]
    result = run(*call)
    assert result.exit_code == 0, result.stderr
    assert "Random scenario: " in result.stdout
    assert run(*call).exit_code == 0  # goes on, and finds nothing to do
    before = (work / "ev" / "results.csv").read_text(encoding="utf-8")
    assert run("report", "ev", "page", "--paper", "none").exit_code == 0
    html = (work / "page" / "report.html").read_text(encoding="utf-8")
    assert "With one subject no test is possible" in html
    assert not re.search(r'(?:src|href)="(?!data:|#s)', html)  # opens without a network
    assert "no test possible" in html
    assert {p.suffix for p in (work / "page").iterdir()} == {".html", ".csv", ".png", ".svg", ".json"}
    refused("report", "ev", "page")  # never replaced unasked
    assert (work / "ev" / "results.csv").read_text(encoding="utf-8") == before
    # Without a draw everybody is a test subject, which is said, and nobody may have trained.
    call = ["evaluate", cohort, "all", "--segmenter", "seg/segmenter.safetensors", "--model", model_path]
    assert f"Found {selected}; expected none" in refused(*call)
    shutil.copytree(cohort / tested, work / "own" / tested)
    call[1] = work / "own"
    result = run(*call, "--scenarios", "none,t1")
    assert result.exit_code == 0, result.stderr
    assert "No draw: all 1 subjects are taken for test subjects" in result.stdout
    told = json.loads((work / "all" / "settings.json").read_text(encoding="utf-8"))
    assert (told["draw"], told["subjects"]) == ("none: all are taken for test subjects", [tested])
    # Nobody is tested who trained.
    write_json(work / "swap.json", drawn | {"train": {tested: ["t1"]}, "selection": [], "test": [selected]})
    again = ["evaluate", cohort, "other", "--draw", work / "swap.json", "--segmenter", "seg/segmenter.safetensors"]
    assert f"Found {selected}; expected none" in refused(*again, "--model", model_path)
    assert not (work / "other").exists()


def test_quality_comparison_and_cross_center_come_from_commands(cohort, model_path, trained_run, paired, work):
    draw, (tested, selected) = paired
    drawn = json.loads(draw.read_text(encoding="utf-8"))
    write_json(work / "train.json", drawn | {"train": {selected: ["t1"]}, "selection": [], "test": [tested]})
    given = ["--data", cohort, "--draw", work / "train.json", "--out", "seg", "--spacing", "1", "--centers", "A"]
    made = run("train-segmenter", *given, "--sequences", "t1,t1ce,t2", "--iterations", "1", "--device", "cpu")
    assert made.exit_code == 0, made.stderr
    common = ["--draw", work / "train.json", "--segmenter", "seg/segmenter.safetensors"]
    result = run("quality", cohort, "ev", *common, "--model", model_path, "--parts", "distances,pictures")
    assert result.exit_code == 0, result.stderr
    assert (work / "ev" / "distances.csv").is_file()
    assert "Unknown part" in refused("quality", cohort, "ev", *common, "--model", model_path, "--parts", "noise")
    assert "Model is not clear: --beside" in refused(
        "quality", cohort, "ev", *common, "--model", model_path, "--beside", "model=x"
    )
    shutil.copytree(trained_run, work / "again")
    result = run("compare", trained_run, "again", "--data", cohort, *common, "--part", "test", "--out", "compared")
    assert result.exit_code == 0, result.stderr
    assert len((work / "compared" / "comparison.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert "Runs cannot be compared" in refused("compare", "again", "--data", cohort, *common, "--out", "compared")
    result = run("cross-center", cohort, "cross", *common, "--model", model_path)
    assert result.exit_code == 0, result.stderr
    assert f"{tested},A,A at home" in (work / "cross" / "results.csv").read_text(encoding="utf-8")


def test_folds_come_from_the_command_and_evaluate_takes_them(cohort, model_path, paired, work):
    draw, (tested, selected) = paired
    drawn = json.loads(draw.read_text(encoding="utf-8"))
    write_json(work / "two.json", drawn | {"train": {selected: ["t1"]}, "selection": [], "test": [tested]})
    given = ["--data", cohort, "--draw", work / "two.json", "--out", "seg", "--spacing", "1", "--folds", "2"]
    result = run("train-segmenter", *given, "--sequences", "t1,t2", "--iterations", "1", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("held back: Dice") == 2
    call = ["evaluate", cohort, "ev", "--draw", work / "two.json", "--segmenter", "seg", "--model", model_path]
    result = run(*call, "--part", "all", "--scenarios", "none,t2")
    assert result.exit_code == 0, result.stderr
    assert "1 of 2 subjects are in the draw's training part" in result.stdout
    rows = (work / "ev" / "results.csv").read_text(encoding="utf-8")
    assert tested in rows
    assert selected in rows


def test_evaluate_says_what_is_missing(cohort, model_path, paired, work, monkeypatch):
    draw, _ = paired
    monkeypatch.setattr("ummgat.core.machine.bundled_file", lambda name: None)
    assert "Give --segmenter" in refused("evaluate", cohort, "ev", "--draw", draw, "--model", model_path)
    assert "Results are missing" in refused("report", work, "page")
    assert not (work / "page").exists()
