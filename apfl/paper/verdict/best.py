"""Which readings may turn out to be the best (``apfl.selection``), where a study does not run them, and what is said of
claims there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apfl.errors import UserError
from apfl.paper.labels import dataset_label
from apfl.paper.numbers.choice import BEST
from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.verdict.contrasts import Contrast, Question, Source
from apfl.study.cells import cells
from apfl.study.outputs import OUTPUTS
from apfl.study.study import Study

IN_ALL_READINGS = ("table2", "table3", "table4")
"""What a study shows in each of its readings, so that it can show each of those that it chooses among."""


def unrun(study: Study) -> Mapping[str, tuple[str, ...]]:
    """By output that claims are about, the readings that may be chosen and that it does not run in one of its rows; in
    those of Table 2 the figure of all readings counts, too."""
    if not study.paper:
        return {}
    choice = grouped(cells(study, "selection"), lambda cell: cell.dataset)
    found: dict[str, tuple[str, ...]] = {}
    for output, by_dataset in Source.of(study, Metrics({}, {})).found.items():
        lacking: dict[str, None] = {}
        for dataset, among in choice.items():
            ours = [cell for _, cell in by_dataset.get(dataset, ()) if cell.method == among[0].method]
            for there in grouped(ours, lambda cell: cell.setting).values():
                run = {cell.reading for cell in there}
                lacking |= dict.fromkeys(cell.reading for cell in among if cell.reading not in run)
        if lacking:
            found[output] = tuple(lacking)
    return found


def check_choice(study: Study) -> list[str]:
    """What to know of the choice: figures that may turn out not to show the reading that is chosen. A `UserError` if a
    table does not."""
    notes = []
    for output, names in unrun(study).items():
        heading, listed = OUTPUTS[output].heading, ", ".join(names)
        if output in IN_ALL_READINGS:
            raise UserError(
                f"apfl.selection.readings: {heading} does not run {listed} everywhere, and one of them may be chosen; "
                "leave them out there, or add them to apfl.readings"
            )
        which = "that" if len(names) == 1 else "one of these"
        notes.append(
            f"note: {heading} does not run {listed}; where {which} is the best reading, its claims are not run"
        )
    return notes


def why_unread(source: Source, asked: Question, given: Iterable[Contrast]) -> str:
    """Why the best reading has no number in some comparison although it waits for no run; empty if it has them all."""
    if asked.reading != BEST:
        return ""
    parts = [(row["dataset"], part) for one in given if not one.gate
             for row, part in zip(one.rows, one.strata, strict=True) if part.planned]  # fmt: skip
    without = [name for name, part in parts if part.status == "not in study"]
    elsewhere = [f"{source.chosen(asked, name)} on {dataset_label(name)}" for name in dict.fromkeys(without)]
    none = [name for name, part in parts if part.status == "diverged" and source.chosen(asked, name) == BEST]
    nowhere = [dataset_label(name) for name in dict.fromkeys(none)]
    said = {f"the chosen reading is not run in {OUTPUTS[asked.claim.output].heading}: ": elsewhere}
    said |= {"in the choice each reading diverged on ": nowhere}
    return "; ".join(text + ", ".join(names) for text, names in said.items() if names)
