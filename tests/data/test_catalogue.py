"""The catalogue of data sets agrees with the sources, and with itself."""

from __future__ import annotations

import pytest

from apfl.data.catalogue import CATALOGUE, DOWNLOADS, FOR_ONE, IN_PAPER, UNDER_ROOT, folder_of
from apfl.data.dataset import check_name
from apfl.data.sources import SOURCES
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
