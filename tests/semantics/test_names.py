"""Class names as people and hubs write them: which words they stand for, and that two classes stay two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apfl.data.dataset import Dataset
from apfl.data.partition import make_partition
from apfl.data.plots import partition_picture, sample_picture
from apfl.errors import UserError
from apfl.semantics.packaged import TABLE, packaged
from apfl.semantics.table import Semantics, class_text, class_texts, match
from apfl.storage.files import read_json

OWN = [name for names in read_json(TABLE.with_suffix(".json")).values() for name in names]


def dataset(*names: str) -> Dataset:
    labels = np.arange(20 * len(names)) % len(names)
    return Dataset("x", np.zeros((len(labels), 1, 32, 32), np.uint8), labels, names, {})


def table(*names: str) -> Semantics:
    return Semantics(np.eye(len(names), 3, dtype=np.float32), names, names, {})


@pytest.mark.parametrize("name", OWN)
def test_the_words_of_the_data_sets_of_the_project_are_as_they_were(name: str) -> None:
    assert class_text(name) == " ".join(name.partition("/")[0].replace("_", " ").lower().split())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("001.Black_footed_Albatross", "black footed albatross"),
        ("n01440764", "n01440764"),
        ("n02085620-Chihuahua", "chihuahua"),
        ("great white shark, white shark, man-eater", "great white shark"),
        ("0 - zero", "zero"),
        ("01_airplane", "airplane"),
        ("Apple___Black_rot", "apple black rot"),
        ("AnnualCrop", "annual crop"),
        ("BMW", "bmw"),
        ("7-eleven", "7-eleven"),
        ("3-d printer", "3-d printer"),
        ("747-400", "747-400"),
        ("9", "9"),
        ("  hot dog ", "hot dog"),
        ("cafe\u0301", "caf\u00e9"),
        ("/", ""),
    ],
)
def test_a_name_stands_for_its_words(name: str, words: str) -> None:
    assert class_text(name) == words


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (("dog/husky", "dog/beagle", "cat"), ("dog husky", "dog beagle", "cat")),
        (("A", "a", "b"), ("A", "a", "b")),
        (("crab, king", "crab, hermit"), ("crab king", "crab hermit")),
        (("001.owl", "002.owl"), ("001.owl", "002.owl")),
        (("a_b", "a b"), ("a_b", "a b")),
        (("/", "+"), ("/", "+")),
    ],
)
def test_two_classes_never_have_the_same_words(names: tuple[str, ...], texts: tuple[str, ...]) -> None:
    assert class_texts(names) == texts


def test_the_packaged_embeddings_do_not_give_two_classes_the_same_row() -> None:
    assert packaged(["T-shirt/top", "Coat"]).texts == ("t-shirt", "coat")
    with pytest.raises(UserError, match="no embedding of dog husky, dog beagle"):
        packaged(["dog/husky", "dog/beagle"])


def test_capital_and_small_letters_each_find_their_row() -> None:
    found = match(table("b", "A", "a"), ("A", "a"), "t")
    assert np.array_equal(found.embedding, np.eye(3, dtype=np.float32)[1:])
    found = match(table("dog/beagle", "dog/husky"), ("dog husky", "dog beagle"), "t")
    assert np.array_equal(found.embedding, np.eye(2, 3, dtype=np.float32)[::-1])


def test_two_classes_that_find_one_row_are_refused_in_a_line_that_says_so() -> None:
    with pytest.raises(UserError, match="several rows for one class, or one for several; use a table"):
        match(table("a", "b", "c"), ("A", "a"), "t")


@pytest.mark.parametrize("name", ["a\nb", "\ud83d", "tab\t"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="a character that cannot be shown; correct its source"):
        dataset("cat", name)


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path: Path) -> None:
    made = dataset("$\\frac$", "100 % {x}", "a_b^c")
    partition_picture(tmp_path / "p.png", made, make_partition(made, "iid-clients2", 0))
    sample_picture(tmp_path / "s.png", made)
    assert (tmp_path / "p.png").stat().st_size > 1000
