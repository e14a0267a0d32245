"""One way to walk a cohort: by small works whose outcome is known, in one process and in several."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from test_segmentation import Oracle
from ummgat.completion.cohort import complete
from ummgat.completion.fill import Request
from ummgat.core.each import Report, Skipped, each, gathered, named
from ummgat.core.files import TEMPORARY
from ummgat.core.stamp import STAMP, write_stamp
from ummgat.core.study import load_cohort
from ummgat.evaluate.segmentation import evaluate
from ummgat.export.cohort import export_bids
from ummgat.model.weights import load_model
from ummgat.quality.codes import collect
from ummgat.quality.directions import measure
from ummgat.quality.domain_features import gather
from ummgat.quality.features import random_convolutions
from ummgat.quality.kept_lesions import measure_kept
from ummgat.quality.measure import measure_images

STUDIES = {"a": 1, "b": 0, "c": -1, "d": 7, "e": 4}


def tenth(context, study):
    """Ten over a study, in the unit of the context; some have reasons not to."""
    if study < 0:
        raise Skipped("below nothing")
    if study == 7:
        raise ValueError("Seven. Found it; expected another.")
    return context / study


def fill_the_disk(context, study):
    if study == context:
        raise OSError(errno.ENOSPC, "Disk is full: here.")
    return study


def die(context, study):
    os._exit(1)


@pytest.mark.parametrize("jobs", [1, 3])
def test_whatever_happens_to_one_the_others_are_done_and_all_is_told_in_order(jobs):
    said = []
    report = each(tenth, STUDIES, 10, jobs=jobs, progress=lambda *what: said.append(what))
    assert (list(report.done.items()), report.up_to_date) == ([("a", 10), ("e", 2.5)], [])
    assert report.skipped == {"c": "below nothing"}
    assert list(report.failed) == ["b", "d"]
    assert report.failed["d"] == "Seven. Found it; expected another."
    assert "Unexpected ZeroDivisionError: division by zero. This is a bug" in report.failed["b"]
    assert [(finished, total) for finished, total, _ in said] == [(i, 5) for i in range(6)]
    assert report.counts() == "2 done, 0 up to date, 1 skipped, 2 failed"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_stops_all(jobs):
    with pytest.raises(OSError, match="Disk is full: here") as found:
        each(fill_the_disk, STUDIES, 0, jobs=jobs)
    assert found.value.errno == errno.ENOSPC


def test_a_worker_that_dies_is_told():
    with pytest.raises(RuntimeError, match="worker process died"):
        each(die, STUDIES, 0, jobs=2)


def test_what_no_other_process_can_hold_needs_one_job():
    with pytest.raises(ValueError, match=r"cannot be shared by processes: --jobs\. Found 2 jobs"):
        each(tenth, STUDIES, lambda: 1, jobs=2)
    with pytest.raises(ValueError, match=r"Bad number of jobs"):
        each(tenth, STUDIES, 1, jobs=0)


def test_two_studies_of_one_name_are_refused():
    assert named("ab", str.upper) == {"A": "a", "B": "b"}
    with pytest.raises(ValueError, match="Two studies have one name: A"):
        named("aA", str.upper)
    assert gathered(Report({"a": [1, 2], "b": [3]})) == [1, 2, 3]


# ---------------------------------------------------------------- stopped from outside

SCRIPT = """
import sys, time
from pathlib import Path
from ummgat.cli.terminal import command, main, progress, app
from ummgat.core.each import each
from ummgat.core.files import replaced_folder

def slow(out, study):
    with replaced_folder(out / study) as folder:
        (folder / "file").write_text("half")
        (out / f"{study} began").touch()
        time.sleep(60)

@command
def walk(out: Path, jobs: int) -> None:
    each(slow, {"a": "a", "b": "b", "c": "c"}, out, jobs=jobs)

if __name__ == "__main__":
    main()
"""


def alive(group):
    """Processes of a group that are not yet dead and only waiting to be buried."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = path.read_text().rpartition(") ")[2].split()[:3]
            found += [path.parent.name] if int(of) == group and state != "Z" else []
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_walk_leaves_no_process_and_nothing_half_written(tmp_path, jobs, how, code):
    (tmp_path / "run.py").write_text(SCRIPT)
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py"), "walk", str(out), str(jobs)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background has them, and so their children, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    waited = time.monotonic()
    while len(list(out.glob("* began"))) < jobs:
        assert time.monotonic() - waited < 60
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    assert list(out.glob(TEMPORARY + "*"))
    assert len(alive(process.pid)) >= jobs
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert "Stopped by" in errors
    assert sorted(p.name for p in out.iterdir()) == [f"{name} began" for name in "abc"[:jobs]]
    waited = time.monotonic()
    while (left := alive(process.pid)) and time.monotonic() - waited < 5:
        time.sleep(0.05)
    assert left == []


# ---------------------------------------------------------------- the walks themselves


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in (".lock",)
    }


def test_completion_is_the_same_with_more_jobs_and_the_second_time_up_to_date(cohort, model_path, tmp_path):
    for jobs in (1, 2):
        report = complete(cohort, tmp_path / str(jobs), model_path, jobs=jobs)
        assert len(report.done) > 1
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    before = contents(tmp_path / "1")
    again = complete(cohort, tmp_path / "1", model_path)
    assert (again.done, again.failed, again.up_to_date) == ({}, report.failed, list(report.done))
    assert again.warnings == report.warnings
    assert contents(tmp_path / "1") == before


def test_another_request_or_input_is_not_up_to_date(cohort, model_path, tmp_path):
    shutil.copytree(cohort, tmp_path / "in")
    study = load_cohort(tmp_path / "in")[0]
    first = complete(study.folder, tmp_path / "out", model_path)
    assert list(first.done) == [study.subject]
    other = complete(study.folder, tmp_path / "out", model_path, request=Request(with_reliability=False))
    assert "Found one made from other files or with other settings" in other.failed[study.subject]
    image = study.folder / study.record.images[study.acquired[0]].file
    os.utime(image, ns=(1, 1))
    assert list(complete(study.folder, tmp_path / "out", model_path).failed) == [study.subject]
    assert list(complete(study.folder, tmp_path / "out", model_path, overwrite=True).done) == [study.subject]
    assert complete(study.folder, tmp_path / "out", model_path).up_to_date == [study.subject]
    (tmp_path / "out" / first.done[study.subject][0]).unlink()
    assert list(complete(study.folder, tmp_path / "out", model_path).failed) == [study.subject]
    (tmp_path / "out" / study.subject / STAMP).unlink()
    assert "Found a folder" in complete(study.folder, tmp_path / "out", model_path).failed[study.subject]


def test_a_model_that_was_never_a_file_is_never_up_to_date(cohort, model_path, tmp_path):
    model = load_model(model_path)
    model.hash = ""
    study = load_cohort(cohort)[0]
    assert complete(study.folder, tmp_path, model).done
    assert complete(study.folder, tmp_path, model).failed


@pytest.mark.parametrize("accident", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["completion", "export"])
def test_what_was_stopped_is_taken_up_and_then_up_to_date(cohort, model_path, tmp_path, monkeypatch, step, accident):
    """Stopped when the second study's files are all written, and only its stamp is not."""
    source = cohort
    if step == "export":
        source = tmp_path / "completed"
        complete(cohort, source, model_path, request=Request(with_reliability=False))

    def go(name):
        if step == "export":
            return export_bids(source, tmp_path / name)
        return complete(source, tmp_path / name, model_path, request=Request(with_reliability=False))

    whole = go("whole")
    first, *others = whole.done
    assert others
    module = f"ummgat.{step}.cohort.write_stamp"
    stamped = []

    def fail(folder, *arguments):
        if stamped:
            raise accident
        stamped.append(folder)
        write_stamp(folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, fail)
        with pytest.raises(type(accident)):
            go("out")
    assert not list((tmp_path / "out").rglob(TEMPORARY + "*"))
    folders = {Path(files[0]).parts[0] if step == "export" else subject for subject, files in whole.done.items()}
    left = {path.name for path in (tmp_path / "out").iterdir()} & folders
    assert len(left) == 1
    again = go("out")
    assert (again.up_to_date, list(again.done)) == ([first], others)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    last = go("out")
    assert (last.up_to_date, last.done) == ([first, *others], {})


def test_export_is_the_same_with_more_jobs(cohort, model_path, tmp_path):
    complete(cohort, tmp_path / "completed", model_path)
    for jobs in (1, 2):
        export_bids(tmp_path / "completed", tmp_path / str(jobs), jobs=jobs)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_results_are_the_same_with_more_jobs_and_after_a_kill(model, studies, tmp_path):
    settings = {"scenarios": ["none", "single"]}
    for jobs in (1, 2):
        report = evaluate(
            {"plain": Oracle(studies)}, model, studies, tmp_path / str(jobs), {}, {}, jobs=jobs, **settings
        )
        assert list(report.done) == [s.subject for s in studies]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    whole = (tmp_path / "1" / "results.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    second = next(i for i, line in enumerate(lines) if line.startswith(studies[1].subject.encode()))
    (tmp_path / "1" / "results.csv").write_bytes(b"".join([lines[0], *lines[second:]]))  # the second was first
    report = evaluate({"plain": Oracle(studies)}, model, studies, tmp_path / "1", {}, {}, **settings)
    assert (list(report.done), report.up_to_date) == ([studies[0].subject], [studies[1].subject])
    assert (tmp_path / "1" / "results.csv").read_bytes() == whole


def test_measures_are_the_same_with_more_jobs(model, studies):
    measures = {
        "directions": lambda jobs: repr(gathered(measure(model, studies, jobs=jobs))),
        "lesions": lambda jobs: gathered(measure_kept({"m": model}, Oracle(studies), studies, jobs)),
        "features": lambda jobs: repr(
            gather(studies, {"m": model}, [random_convolutions()], per_subject=2, within_center=True, jobs=jobs)[0][0]
        ),
        "codes": lambda jobs: collect(model, studies, planes=1, jobs=jobs)[0].features.tolist(),
    }
    for name, of in measures.items():
        assert of(1) == of(2), name


def broken_cohort(cohort, studies, out):
    """Two studies, one of which has an image that cannot be read."""
    for study in studies:
        shutil.copytree(study.folder, out / study.subject)
    copies = load_cohort(out)
    path = copies[0].folder / copies[0].record.images["t1"].file
    path.write_bytes(path.read_bytes()[:1000])
    return copies


def test_one_unreadable_study_ends_no_part_of_quality_and_is_tried_again(cohort, model, studies, tmp_path):
    copies = broken_cohort(cohort, studies, tmp_path / "cohort")
    bad, good = copies[0].subject, copies[1].subject
    out = tmp_path / "out"
    parts = ["directions", "distances", "pictures"]
    given = ({"m": model}, Oracle(studies), copies, out, {}, [random_convolutions()], parts)
    measured = measure_images(*given)
    assert set(measured.failed) == {f"{bad}, {part}" for part in parts}
    rows = (out / "directions.csv").read_text()
    assert good in rows
    assert bad not in rows
    shutil.copyfile(studies[0].folder / copies[0].record.images["t1"].file, Path(copies[0].folder) / "t1.nii")
    assert measure_images(*given).failed == {}
    assert bad in (out / "directions.csv").read_text()
