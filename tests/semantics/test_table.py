"""Tables of embeddings, the packaged one, controls, and the command line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apfl.cli import main
from apfl.data.dataset import Dataset, save_dataset
from apfl.errors import UserError
from apfl.semantics.controls import derangement, onehot, random, shuffled
from apfl.semantics.packaged import TABLE, packaged
from apfl.semantics.sources import SOURCES, embed, table
from apfl.semantics.table import Semantics, load_semantics, load_table, match, save_semantics, standardize
from apfl.storage.files import read_json

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def rows(count: int, dimension: int = 4) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, dimension)).astype(np.float32)


def write_table(path: Path, embedding: np.ndarray, **arrays: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, embedding=embedding, **{name: np.array(value) for name, value in arrays.items()})
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["semantics", *map(str, arguments)])
    return ended.value.code


@pytest.fixture
def data(tmp_path) -> Path:
    """A data set of three letters."""
    images = np.zeros((3, 1, 32, 32), np.uint8)
    save_dataset(tmp_path / "abc.npz", Dataset("abc", images, np.arange(3), ("a", "b", "c"), {}))
    return tmp_path / "abc.npz"


@given(
    classes=st.integers(2, 20),
    dimension=st.integers(1, 30),
    shift=st.floats(-50, 50),
    size=st.floats(1e-3, 1e3),
)
def test_standardized_rows_are_centred_and_as_long_as_noise(classes, dimension, shift, size):
    raw = rows(classes, dimension) * size + shift
    made = standardize(raw)
    assert made.dtype == np.float32 and made.shape == raw.shape
    assert np.allclose(made.mean(axis=0), 0, atol=1e-2)
    assert np.linalg.norm(made, axis=1).mean() == pytest.approx(dimension**0.5, rel=1e-3)


def test_standardizing_keeps_proportions_and_each_half_can_be_left_out():
    raw = rows(5) + 3
    centred = raw - raw.mean(axis=0)
    made = standardize(raw)
    assert np.allclose(made / made[0, 0], centred / centred[0, 0], rtol=1e-4)
    assert np.allclose(standardize(raw, scale=False), centred, atol=1e-6)
    assert np.allclose(standardize(raw, centre=False) / raw, (standardize(raw, centre=False) / raw)[0, 0], rtol=1e-5)
    assert np.array_equal(standardize(raw, centre=False, scale=False), raw)
    assert np.array_equal(standardize(np.ones((3, 2))), np.zeros((3, 2)))


def test_an_artefact_gives_its_embedding_back_for_its_classes(tmp_path):
    made = Semantics(rows(3), ("a", "b", "c"), ("A", "B", "C"), {"kind": "test"})
    save_semantics(tmp_path / "s.npz", made)
    assert np.array_equal(load_semantics(tmp_path / "s.npz", ("a", "b", "c")), made.embedding)
    back = load_table(tmp_path / "s.npz")
    assert (back.names, back.texts, back.source) == (made.names, made.texts, made.source)


def test_rows_are_found_by_name_whatever_their_order_and_spelling():
    there = Semantics(rows(4), ("Maple tree", "dog", "owl", "cat"), ("maple", "Dog", "Owl", "Cat"), {})
    found = match(there, ("cat", "maple_tree"), "t")
    assert np.array_equal(found.embedding, there.embedding[[3, 0]])
    assert found.names == ("cat", "maple_tree") and found.texts == ("Cat", "maple")


def test_rows_are_in_label_order_where_names_differ_but_do_not_contradict():
    names = ("tee", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
    assert np.array_equal(match(Semantics(rows(10), names, names, {}), FASHION, "t").embedding, rows(10))
    assert np.array_equal(match(Semantics(rows(10), (), (), {}), FASHION, "t").embedding, rows(10))
    numbers = tuple("0123456789")
    assert np.array_equal(match(Semantics(rows(10), names, names, {}), numbers, "t").embedding, rows(10))


@pytest.mark.parametrize(
    ("names", "wanted", "words"),
    [
        (("cat", "dog"), ("cat", "owl", "dog"), "has no row for owl; use a table of all 3 classes"),
        (("cat", "dog", "tee"), ("dog", "cat", "owl"), "has no row for owl"),
        (("cat", "dog"), ("one", "two"), "2 rows .cat, dog. for 2 classes .one, two."),
        ((), ("one", "two", "three"), "2 rows .without names. for 3 classes"),
    ],
)
def test_a_table_of_other_classes_is_refused(names, wanted, words):
    there = Semantics(rows(max(2, len(names))), names, names, {})
    with pytest.raises(UserError, match=words):
        match(there, wanted, "t")


@pytest.mark.parametrize(
    ("embedding", "names", "words"),
    [
        (
            np.array([[1.0, 2.0], [np.nan, 0.0], [1.0, 1.0]]),
            "abc",
            "row 1 of the embedding has numbers that are not finite",
        ),
        (np.array([[1.0, 2.0], [1.0, 0.0], [np.inf, 1.0]]), "abc", "row 2 of the embedding"),
        (rows(4), "abcd"[:3], "has 3 names for 4 embeddings"),
        (rows(2), "ab", "has no row for c; use a table of all 3 classes"),
        (rows(3)[0], "abc", "not numbers .classes, dimension."),
        (np.array([["x"], ["y"], ["z"]]), "abc", "not numbers"),
        (np.zeros((3, 0)), "abc", "not numbers"),
    ],
)
def test_a_table_that_is_none_is_one_line_of_the_command_line(tmp_path, data, capsys, embedding, names, words):
    path = write_table(tmp_path / "t.npz", embedding, names=list(names))
    assert run("t", "--source", "table", "--path", path, "--data", data, "--out", tmp_path / "s.npz") == 2
    error = capsys.readouterr().err
    assert error.startswith("apfl: error: ") and error.count("\n") == 1 and str(path) in error
    with pytest.raises(UserError, match=words):
        load_semantics(path, ("a", "b", "c"))
    assert not (tmp_path / "s.npz").exists()


def test_a_folder_of_tables_serves_a_data_set_by_its_name_and_letters_by_theirs(tmp_path):
    letters = write_table(tmp_path / "w2v" / "emnist_letters.npz", rows(26), names=list("abcdefghijklmnopqrstuvwxyz"))
    made = table(("b", "a"), letters.parent, "ocr_letters")
    assert np.array_equal(made.embedding, rows(26)[[1, 0]]) and made.source["table"] == "w2v/emnist_letters.npz"
    write_table(tmp_path / "w2v" / "ocr_letters.npz", rows(2), names=["a", "b"])
    assert np.array_equal(table(("b", "a"), letters.parent, "ocr_letters").embedding, rows(2)[[1, 0]])
    with pytest.raises(UserError, match=r"cifar10\.npz: no such file"):
        table(("cat", "dog"), letters.parent, "cifar10")


def test_every_data_set_of_the_project_has_packaged_embeddings_of_minilm():
    for names in read_json(TABLE.with_suffix(".json")).values():
        made = packaged(names)
        assert made.embedding.shape == (len(names), 384) and made.embedding.dtype == np.float32
        assert np.isfinite(made.embedding).all() and len(np.unique(made.embedding, axis=0)) == len(names)
    assert TABLE.stat().st_size < 200_000
    with pytest.raises(UserError, match="no embedding of gryphon"):
        packaged(("cat", "gryphon"))


def test_packaged_embeddings_know_that_a_cat_is_closer_to_a_dog_than_to_a_truck():
    cat, dog, truck = standardize(packaged(("cat", "dog", "truck", "ship", "frog")).embedding)[:3]
    assert cat @ dog > cat @ truck


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "emnist_letters"])
def test_packaged_embeddings_are_those_computed_elsewhere(name):
    root = os.environ.get("APFL_SEMANTICS_ROOT")
    if not root:
        pytest.skip("real embedding tables: set APFL_SEMANTICS_ROOT to their folder")
    other = load_table(Path(root) / "minilm_l6_v2_name" / f"{name}.npz")
    assert np.allclose(packaged(other.names).embedding, other.embedding, atol=1e-3)


@pytest.mark.parametrize(
    ("folder", "dataset"), [("clip_vitb32_a", "fashion_mnist"), ("word2vec_googlenews", "emnist_letters_a_to_l")]
)
def test_real_tables_serve_the_data_sets(folder, dataset):
    root = os.environ.get("APFL_SEMANTICS_ROOT")
    if not root:
        pytest.skip("real embedding tables: set APFL_SEMANTICS_ROOT to their folder")
    names = {"fashion_mnist": FASHION, "emnist_letters_a_to_l": tuple("abcdefghijkl")}[dataset]
    made = table(names, Path(root) / folder, dataset)
    assert len(made.embedding) == len(names) and np.isfinite(made.embedding).all()


def test_onehot_is_the_identity_and_random_is_noise_of_its_seed():
    names = tuple("abcd")
    assert np.array_equal(onehot(names).embedding, np.eye(4))
    first, again, other = (random(names, seed, 2000).embedding for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert abs(first.mean()) < 0.05 and abs(first.std() - 1) < 0.05
    assert random(names, 0).embedding.shape == (4, 512)


def test_shuffled_has_the_same_rows_and_every_one_at_a_wrong_class(tmp_path):
    names = [str(name) for name in "abcdefgh"]
    path = write_table(tmp_path / "t.npz", rows(8), names=names)
    made = shuffled(names, path, seed=0)
    assert {row.tobytes() for row in made.embedding} == {row.tobytes() for row in rows(8)}
    assert not (made.embedding == rows(8)).all(axis=1).any()
    place = [names.index(text) for text in made.texts]
    assert np.array_equal(made.embedding, rows(8)[place]) and made.names == tuple(names)
    assert not np.array_equal(made.embedding, shuffled(names, path, seed=1).embedding)


@given(size=st.integers(2, 30), seed=st.integers(0, 50))
def test_a_derangement_moves_everything(size, seed):
    order = derangement(size, np.random.default_rng(seed))
    assert sorted(order) == list(range(size)) and (order != np.arange(size)).all()


def test_one_class_cannot_be_shuffled():
    with pytest.raises(UserError, match="at least 2 classes"):
        derangement(1, np.random.default_rng(0))


@pytest.mark.parametrize("source", ["packaged", "onehot", "random", "shuffled"])
def test_the_command_line_writes_the_artefact_that_training_reads(tmp_path, data, source):
    of = write_table(tmp_path / "t.npz", rows(3), names=["a", "b", "c"])
    extra = ["--of", of] if source == "shuffled" else []
    out = tmp_path / "abc" / f"{source}.npz"
    assert run("--source", source, "--data", data, "--out", out, *extra) == 0
    assert load_semantics(out, ("a", "b", "c")).shape[0] == 3 and load_table(out).source["name"] == source


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "glove"], "semantics source 'glove': unknown; use one of packaged, table, w2v"),
        (["--source", "table"], "semantics table: needs --path; add it"),
        (["--source", "shuffled"], "semantics shuffled: needs --of; add it"),
        (["--source", "onehot", "--dimension", "8"], "semantics onehot: does not read --dimension; leave it out"),
        (["--source", "w2v", "--path", "/no/where.bin"], "--path /no/where.bin: no such file or folder"),
    ],
)
def test_options_that_do_not_fit_the_source_are_refused(tmp_path, data, capsys, arguments, words):
    assert run(*arguments, "--data", data, "--out", tmp_path / "s.npz") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "s.npz").exists()


def test_every_source_embeds_the_class_names_it_is_given():
    for source in ("packaged", "onehot", "random"):
        made = embed(source, ("a", "b"), {"dataset": "x", "seed": 0}, {})
        assert made.names == ("a", "b") and len(made.embedding) == len(made.texts) == 2
    assert set(SOURCES) == {"packaged", "table", "w2v", "bert", "clip", "onehot", "random", "shuffled"}
