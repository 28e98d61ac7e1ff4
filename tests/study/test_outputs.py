"""The catalogue of outputs names what a study can ask for, and agrees with itself."""

from __future__ import annotations

from apfl.data.catalogue import CATALOGUE
from apfl.study.load import schema
from apfl.study.outputs import BESIDE, FIGURES, OUTPUTS


def test_the_catalogue_has_what_the_schema_lets_a_study_ask_for() -> None:
    parts = schema()["properties"]
    assert set(FIGURES) == set(parts["figures"]["properties"])
    assert set(OUTPUTS) == {*parts["tables"]["properties"], *parts["figures"]["properties"], "selection", "tuning"}


def test_no_two_outputs_have_one_name_or_one_heading() -> None:
    assert not set(OUTPUTS) & set(BESIDE)
    shown = [output.heading for output in (OUTPUTS | BESIDE).values() if output.name != "selection"]
    assert len(set(shown)) == len(shown)
    assert all(name == output.name and output.caption.endswith(".") for name, output in (OUTPUTS | BESIDE).items())


def test_every_output_refers_to_outputs_tests_and_data_sets_that_there_are() -> None:
    for output in (OUTPUTS | BESIDE).values():
        assert output.of in ("", *OUTPUTS) and set(output.datasets) <= set(CATALOGUE)
        assert set(output.tests) <= {"non_dropout", "dropout"}
        assert {test for tests in output.tests.values() for test in tests} <= {"own", "pooled", "monopoly"}
        assert output.axes[:1] in ((), ("dataset",)) and output.columns in ("title", "semantics", "schedule")
