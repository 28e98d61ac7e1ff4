"""How jobs fill the cores: list scheduling."""

from __future__ import annotations

import re

import pytest
from studies import tiny

from apfl.packing import PRIORITIES, Task, longest_first, pack, tasks_of, workflow_order
from apfl.plan import job_unit
from apfl.registry import ROOT
from apfl.study import load_study, runs

CHAIN = [
    Task("a", "federate", 2.0),
    Task("b", "federate", 2.0),
    Task("long", "federate", 3.0),
    Task("longer", "memorize", 4.0, ("long",)),
    Task("end", "table", 1.0, ("a", "b", "longer")),
]


def test_one_core_takes_the_sum_and_endless_cores_the_longest_chain() -> None:
    one, many = pack(CHAIN, 1), pack(CHAIN, 99)
    assert one.makespan == one.work == 12 and one.busy == 1
    assert many.makespan == many.bound == 8 and many.busy == pytest.approx(12 / (99 * 8))


def test_the_workflow_takes_equals_in_their_order_and_longest_first_begins_the_longest_chain() -> None:
    assert pack(CHAIN, 2).makespan == 10  # a and b, then long, longer, end
    assert pack(CHAIN, 2, longest_first).makespan == 8
    assert longest_first(CHAIN) == {"a": 3, "b": 3, "long": 8, "longer": 5, "end": 1}


def test_a_job_of_higher_priority_goes_before_one_that_has_waited_longer() -> None:
    tasks = [Task("x", "personalize", 1.0), Task("y", "federate", 5.0), Task("z", "memorize", 1.0)]
    assert workflow_order(tasks) == {"x": 10, "y": 30, "z": 20}
    assert pack(tasks, 2).makespan == 5
    assert pack(tasks, 2, lambda tasks: {"x": 2, "y": 1, "z": 3}).makespan == 6


@pytest.mark.parametrize("needs", [("nobody",), ("b",)])
def test_a_job_that_waits_for_nobody_or_itself_is_refused(needs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^[ab]: needs"):
        pack([Task("a", "federate", 1.0, needs), Task("b", "federate", 1.0, ("a",))], 2)


def test_nothing_takes_no_time() -> None:
    assert pack([], 2).makespan == 0 and pack([], 2).busy == 1


def test_the_priorities_are_those_of_the_rules() -> None:
    found = {}
    for path in (ROOT / "workflow" / "rules").rglob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            if priority := re.search(r"^    priority: (\d+)$", rule, re.MULTILINE):
                found[rule.split(":")[0]] = int(priority[1])
    assert {"external" if name == "flower" else name: number for name, number in found.items()} == dict(PRIORITIES)


def test_the_jobs_of_a_study_wait_for_what_they_read() -> None:
    study = load_study(tiny())
    tasks = {task.name: task for task in tasks_of(study, 1.0, lambda kind, path: 0.0)}
    assert {run.path for run in runs(study)} < tasks.keys()
    personalized = next(run for run in runs(study) if run.stage == "personalize" and "generator" in run.inputs)
    assert {personalized.inputs["run"], personalized.inputs["generator"]} <= set(tasks[personalized.path].needs)
    assert personalized.path in tasks["table2"].needs and personalized.path in tasks["report"].needs
    assert tasks[personalized.inputs["run"]].needs and not tasks["data/digits-300.npz"].needs


def test_a_job_of_a_cell_starts_once_and_works_for_all_its_seeds() -> None:
    apart, cells = (
        tasks_of(load_study(tiny(seeds=[0, 1], one_job_per=kind)), 100.0, lambda kind, path: 1.0)
        for kind in ("seed", "cell")
    )
    by_name = {task.name: task for task in cells}
    generated = next(task for task in cells if task.kind == "personalize" and len(task.needs) == 5)
    assert generated.seconds == 102.0, "data, two partitions, a federated run and a generator are read"
    assert {task.kind for task in map(by_name.get, generated.needs)} == {"data", "partition", "federate", "memorize"}
    assert len(apart) - len(cells) == sum(task.kind in ("federate", "memorize", "personalize") for task in cells)
    assert sum(task.seconds for task in apart) - sum(task.seconds for task in cells) == 100 * (len(apart) - len(cells))
    assert set(by_name["report"].needs) < by_name.keys()


def test_auto_is_a_cell_where_there_is_a_gpu(monkeypatch) -> None:
    for there, unit in (("/usr/bin/nvidia-smi", "cell"), (None, "seed")):
        monkeypatch.setattr("apfl.plan.shutil.which", lambda name, there=there: there)
        assert job_unit("auto") == unit and job_unit("seed") == "seed" and job_unit("cell") == "cell"
