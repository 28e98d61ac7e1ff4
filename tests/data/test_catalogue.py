"""The catalogue of data sets agrees with the sources, and with itself."""

from __future__ import annotations

import pytest

from apfl.data.catalogue import CATALOGUE, DOWNLOADS, FOR_ONE, IN_PAPER, UNDER_ROOT, folder_of, parts_of, size_of
from apfl.data.dataset import check_name
from apfl.data.sources import SOURCES, digits, photos
from apfl.errors import UserError


def test_every_data_set_comes_from_a_source_that_there_is() -> None:
    assert {info.source for info in CATALOGUE.values()} <= set(SOURCES)
    assert set(UNDER_ROOT) | set(FOR_ONE) | {"torchvision"} == set(SOURCES)


def test_torchvision_is_asked_for_what_it_downloads_alone(tmp_path) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(UserError) as refused:
        SOURCES["torchvision"]("mine", tmp_path)
    assert ", ".join(DOWNLOADS) in str(refused.value)


def test_what_stands_in_for_a_data_set_of_the_paper_is_not_called_like_it() -> None:
    standing_in = [info for info in CATALOGUE.values() if info.stands_in_for]
    assert standing_in
    for info in standing_in:
        assert info.stands_in_for in IN_PAPER and not info.in_paper and info.label.endswith("(stand-in)")
    assert len({info.label for info in CATALOGUE.values()}) == len(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_known_data_set_with_other_classes_needs_another_name(name: str) -> None:
    check_name(name, CATALOGUE[name].classes)
    with pytest.raises(UserError, match="a name of its own"):
        check_name(name, CATALOGUE[name].classes - 1)


def test_a_data_set_lies_in_the_folder_of_its_name_if_nothing_else_is_known() -> None:
    assert folder_of("nist_letters") == "nist_letters_small" and folder_of("mine") == "mine"


def test_the_embedded_data_sets_are_as_large_as_is_known() -> None:
    for read, name in ((digits, "digits"), (photos, "photos")):
        assert size_of({}, name) == len(read(name).labels), name
    assert size_of({"max_samples": 900}, "digits") == 900 and size_of({"max_samples": 9000}, "digits") == 1797
    assert size_of({"max_samples": 70}, "mine") == 70
    assert size_of({"max_samples": None}, "mine") is None and size_of({"max_samples": 0}, "mine") is None


def test_training_parts_may_be_thinned_and_those_to_test_on_are_whole() -> None:
    thin = {"max_samples": 0, "train_samples": 300}
    assert parts_of(thin, "digits", False) == (300, 0, 180) and parts_of(thin, "digits", True) == (270, 30, 180)
    assert parts_of({"max_samples": 1000}, "cifar10", True) == (810, 90, 100) and parts_of({}, "mine", True) is None
