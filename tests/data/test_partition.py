"""Partitions: who holds what, and what is set aside for tests."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from apfl.data.dataset import Dataset
from apfl.data.partition import (
    ARRAYS,
    PARTITIONERS,
    by_client,
    check_match,
    drawn_counts,
    load_partition,
    make_partition,
    quota_of,
    quota_of_a_tenth,
    save_partition,
)
from apfl.data.partitioners.dirichlet import cut, draw_counts, shares
from apfl.data.partitioners.pathological import held_classes, monopoly_classes
from apfl.data.setting import EXAMPLES, Setting, parse_setting
from apfl.errors import UserError

TABLE_1 = Path(__file__).parents[1] / "fixtures" / "table1.csv"
SETTINGS = [
    "dirichlet-alpha0.1-clients5",
    "dirichlet-alpha0.5-clients10-balanced",
    "dirichlet-alpha0.3-clients4-min30",
    "pathological-classes2-clients10-missing20",
    "pathological-classes2-clients10-missing10",
    "pathological-classes5-clients5",
    "iid-clients7",
    "quantity-alpha0.5-clients5",
    "extended_dirichlet-alpha0.5-classes2-clients10",
    "powerlaw-alpha1.5-clients10",
]


def fake(samples: int = 1200, classes: int = 10, name: str = "fake") -> Dataset:
    """Blank images whose labels take turns, less the last few of class 0, so that class sizes differ."""
    labels = np.arange(samples) % classes
    labels = np.delete(labels, np.flatnonzero(labels == 0)[-5:])
    images = np.zeros((len(labels), 1, 32, 32), np.uint8)
    return Dataset(name, images, labels, tuple(f"class {label}" for label in range(classes)), {})


def held(partition, dataset: Dataset) -> list[set[int]]:
    return [set(dataset.labels[partition.client == client].tolist()) for client in range(partition.clients)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_partition_covers_each_image_once(setting):
    dataset = fake()
    partition = make_partition(dataset, setting, seed=3)
    parts = [part(client) for client in range(partition.clients) for part in (partition.train, partition.test)]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(dataset)))


@pytest.mark.parametrize("setting", SETTINGS)
def test_counts_are_those_of_the_training_images(setting):
    dataset = fake()
    partition = make_partition(dataset, setting, seed=3)
    for client in range(partition.clients):
        own = np.bincount(dataset.labels[partition.train(client)], minlength=10)
        assert np.array_equal(own, partition.counts[client])


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_tenth_of_each_client_is_for_tests_in_the_proportions_of_its_classes(setting):
    dataset = fake()
    partition = make_partition(dataset, setting, seed=3)
    for client in range(partition.clients):
        sizes = np.bincount(dataset.labels[partition.client == client], minlength=10)
        tests = np.bincount(dataset.labels[partition.test(client)], minlength=10)
        assert tests.sum() == (sizes.sum() + 5) // 10
        assert (abs(tests - sizes / 10)[sizes > 1] <= 1).all()


@pytest.mark.parametrize("setting", SETTINGS)
def test_of_classes_of_equal_size_the_setting_says_the_counts_before_there_are_images(setting):
    labels = np.arange(1200) % 10
    dataset = Dataset("fake", np.zeros((1200, 1, 32, 32), np.uint8), labels, tuple("abcdefghij"), {})
    partition = make_partition(dataset, setting, seed=3)
    counts, dropout = drawn_counts("fake", 10, 1200, setting, 3)
    for client in range(partition.clients):
        own = np.bincount(labels[partition.client == client], minlength=10)
        assert np.array_equal(counts[client], own)
    assert np.array_equal(dropout, partition.dropout)


def test_clients_of_a_data_set_and_its_size_are_not_guessed():
    assert drawn_counts("fake", 10, None, "iid-clients5", 3) is None
    assert drawn_counts("fake", 10, 1200, "natural-clients5", 3) is None


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_seed_alone_decides_a_partition(setting):
    first, again, other = (make_partition(fake(), setting, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.client, again.client) and np.array_equal(first.is_train, again.is_train)
    assert not np.array_equal(first.client, other.client) and not np.array_equal(first.is_train, other.is_train)


@pytest.mark.parametrize("seed", range(4))
def test_two_of_ten_classes_with_a_fifth_missing_is_table_1_as_printed(seed):
    with TABLE_1.open() as file:
        rows = list(csv.DictReader(file))
    partition = make_partition(fake(), "pathological-classes2-clients10-missing20", seed)
    assert held(partition, fake()) == [{int(label) for label in row["classes"].split()} for row in rows]
    assert partition.dropout.tolist() == [row["monopoly"] == "true" for row in rows]
    assert np.flatnonzero(partition.unseen).tolist() == [8, 9]


def test_at_a_tenth_of_ten_classes_the_dropout_client_holds_one_monopoly_and_one_common_class():
    partition = make_partition(fake(), "pathological-classes2-clients10-missing10", seed=0)
    (dropout,) = np.flatnonzero(partition.dropout)
    others = set().union(*(own for client, own in enumerate(held(partition, fake())) if client != dropout))
    own = held(partition, fake())[dropout]
    assert len(own) == 2 and own - others == {9} and np.flatnonzero(partition.unseen).tolist() == [9]


@pytest.mark.parametrize(
    ("classes", "missing", "number"),
    [(10, 10, 1), (10, 20, 2), (26, 10, 3), (26, 20, 5), (100, 10, 10), (100, 20, 20), (12, 10, 1), (12, 20, 2)],
)
def test_missing_classes_are_rounded_to_whole_classes_and_are_the_last_ones(classes, missing, number):
    setting = Setting("pathological", 10, classes=2, missing=missing)
    assert monopoly_classes(classes, setting).tolist() == list(range(classes - number, classes))


@settings(max_examples=80, deadline=None)
@given(
    classes=st.integers(2, 30),
    clients=st.integers(1, 12),
    own=st.integers(1, 12),
    missing=st.one_of(st.none(), st.integers(1, 60)),
    seed=st.integers(0, 99),
)
def test_monopoly_classes_belong_to_dropout_clients_and_others_are_shared_evenly(classes, clients, own, missing, seed):
    dataset = fake(classes * 30, classes)
    setting = Setting("pathological", clients, classes=own, missing=missing)
    try:
        partition = make_partition(dataset, setting, seed)
    except UserError:
        assume(False)
    monopoly = set(range(classes - round(classes * (missing or 0) / 100 + 1e-9), classes))
    holders = held(partition, dataset)
    dropouts = [classes for classes, drops in zip(holders, partition.dropout, strict=True) if drops]
    others = [classes for classes, drops in zip(holders, partition.dropout, strict=True) if not drops]
    assert all(len(classes) == own for classes in holders)
    assert set().union(*others) == set(range(classes)) - monopoly == set(np.flatnonzero(~partition.unseen).tolist())
    assert set().union(*dropouts) >= monopoly and len(dropouts) == -(-len(monopoly) // own)
    assert sum(len(classes & monopoly) for classes in dropouts) == len(monopoly)
    times = [sum(label in classes for classes in holders) for label in set(range(classes)) - monopoly]
    assert max(times) - min(times) <= 1


def test_a_class_is_split_evenly_among_its_clients():
    partition = make_partition(fake(), "pathological-classes2-clients10-missing20", seed=0)
    sizes = [np.sum((partition.client == client) & (fake().labels == 2)) for client in (1, 4, 5)]
    assert sizes == [40, 40, 40]


def test_which_common_classes_a_client_holds_is_drawn_by_the_seed():
    setting = parse_setting("pathological-classes3-clients6")
    nobody = np.zeros(6, bool)
    drawn = {held_classes(10, np.arange(0), nobody, setting, np.random.default_rng(seed)) for seed in range(5)}
    assert len(drawn) == 5


def test_a_small_alpha_concentrates_a_class_and_a_large_one_spreads_it():
    largest = {}
    for alpha in ("0.01", "1000"):
        partition = make_partition(fake(5000), f"dirichlet-alpha{alpha}-clients5-min1", seed=0)
        largest[alpha] = (partition.counts.max(axis=0) / partition.counts.sum(axis=0)).mean()
    assert largest["0.01"] > 0.9 and largest["1000"] < 0.25


def test_dirichlet_shares_have_the_mean_and_variance_of_the_distribution():
    alpha, clients = 0.5, 4
    stream = np.random.default_rng(0)
    drawn = np.array([shares(alpha, np.ones(clients, bool), stream) for _ in range(4000)])
    assert np.allclose(drawn.mean(axis=0), 1 / clients, atol=0.02)
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert np.allclose(drawn.var(axis=0), variance, rtol=0.1)


def test_every_client_has_the_minimum_and_the_number_of_draws_is_recorded():
    drawn = [make_partition(fake(), "dirichlet-alpha0.05-clients10", seed) for seed in range(6)]
    assert all(np.bincount(partition.client).min() >= 10 for partition in drawn)
    assert max(partition.specification["draws"] for partition in drawn) > 1


def test_a_balanced_draw_gives_nothing_more_to_a_client_that_has_its_share():
    setting, sizes = parse_setting("dirichlet-alpha0.1-clients4-balanced"), np.full(10, 100)
    counts = draw_counts(sizes, setting, np.random.default_rng(0))
    full = np.cumsum(counts, axis=1)[:, :-1] >= 250
    assert full.any() and (counts[:, 1:][full] == 0).all() and np.array_equal(counts.sum(axis=0), sizes)


@pytest.mark.parametrize("drawn", [[0.0, 1.0, 0.0], [np.nan, np.nan, np.nan]])
def test_a_draw_that_gives_open_clients_nothing_is_shared_evenly_by_them(drawn):
    class Stream:
        def dirichlet(self, alpha):
            return np.array(drawn)

    assert shares(0.01, np.array([True, False, True]), Stream()).tolist() == [0.5, 0.0, 0.5]
    assert shares(0.01, np.array([False, False, False]), Stream()).tolist() == [1 / 3, 1 / 3, 1 / 3]


@given(size=st.integers(0, 1000), weights=st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_cutting_by_proportions_gives_away_everything_and_no_more(size, weights):
    assume(sum(weights) > 0)
    proportions = np.array(weights) / sum(weights)
    parts = cut(size, proportions)
    assert parts.sum() == size and parts.min() >= 0 and (abs(parts - size * proportions) <= 1 + 1e-6).all()


@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_the_tests_of_a_client_are_a_tenth_by_class_and_in_total(sizes, seed):
    sizes = np.array(sizes)
    quota = quota_of_a_tenth(sizes, np.random.default_rng(seed))
    assert quota.sum() == (sizes.sum() + 5) // 10
    assert ((quota >= sizes // 10) & (quota <= sizes // 10 + 1) & (quota <= sizes)).all()
    given_up = quota > sizes // 10
    kept = ~given_up & (sizes > 1)
    assert (
        not (given_up.any() and kept.any())
        or (sizes[given_up & (sizes > 1)] % 10).min(initial=9) >= (sizes[kept] % 10).max()
    )


def test_the_only_image_of_a_class_or_a_client_is_for_training():
    stream = np.random.default_rng(0)
    assert quota_of_a_tenth(np.array([1]), stream).tolist() == [0]
    assert quota_of_a_tenth(np.array([1, 1, 7, 1]), stream).tolist() == [0, 0, 1, 0]
    assert quota_of_a_tenth(np.array([1, 1, 10, 1, 1, 1]), stream).tolist() == [0, 0, 2, 0, 0, 0]


def test_sizes_differ_by_quantity_but_not_by_iid_and_labels_by_neither():
    plain = fake(4000)
    dataset = dataclasses.replace(plain, labels=np.sort(plain.labels))
    iid, quantity = (make_partition(dataset, setting, 0) for setting in ("iid-clients5", "quantity-alpha0.5-clients5"))
    assert np.ptp(np.bincount(iid.client)) <= 1 < 400 < np.ptp(np.bincount(quantity.client))
    for partition in (iid, quantity):
        large = partition.counts[partition.counts.sum(axis=1) > 400]
        assert (large / large.sum(axis=1, keepdims=True)).max() < 0.2
        assert not partition.dropout.any() and not partition.unseen.any()


def test_extended_dirichlet_deals_few_classes_and_shares_each_of_them_unevenly():
    dataset = fake(6000)
    one, other = (f"extended_dirichlet-alpha{alpha}-classes3-clients20" for alpha in ("0.3", "1000000"))
    spread = []
    for setting in (one, other):
        partition = make_partition(dataset, setting, 0)
        assert all(len(classes) <= 3 for classes in held(partition, dataset))
        counts = np.array([np.bincount(dataset.labels[partition.client == k], minlength=10) for k in range(20)])
        assert counts.sum(axis=1).min() >= 10
        holders = (counts > 0).sum(axis=0)
        assert holders.min() >= 1 and (setting == one or (np.ptp(holders) <= 1 and holders.sum() == 60))
        spread.append(max(np.ptp(column[column > 0]) for column in counts.T))
    assert spread[0] > 100 > 3 >= spread[1]


def test_sizes_by_a_power_law_fall_as_it_says_and_leave_every_client_its_minimum():
    dataset = fake(20_005)
    sizes = np.sort(np.bincount(make_partition(dataset, "powerlaw-alpha1.5-clients30-min4", 0).client))[::-1]
    weights = np.arange(1, 31) ** -1.5
    assert (abs(sizes - 4 - weights / weights.sum() * (len(dataset) - 120)) <= 1).all()
    assert sizes.min() >= 4 and sizes.sum() == len(dataset)
    orders = [np.bincount(make_partition(dataset, "powerlaw-alpha1.5-clients30", seed).client) for seed in (0, 1)]
    assert not np.array_equal(*orders) and np.array_equal(*map(np.sort, orders))


def test_a_tenth_of_what_is_trained_on_is_set_aside_by_class_and_the_tests_stay_as_they_are():
    dataset = fake(3000)
    plain, less = (make_partition(dataset, "dirichlet-alpha0.1-clients5", 3, held) for held in (False, True))
    assert np.array_equal(plain.client, less.client) and not plain.is_validation.any()
    for client in range(5):
        assert np.array_equal(plain.test(client), less.test(client))
        both = np.concatenate([less.train(client), less.validation(client)])
        assert np.array_equal(np.sort(both), plain.train(client))
        each = np.bincount(dataset.labels[less.validation(client)], minlength=dataset.classes)
        assert each.sum() == (len(both) + 5) // 10 and (abs(each - plain.counts[client] / 10) < 1).all()
    check_match(dataset, less)
    assert less.specification == plain.specification | {"validation": True}


def shuffled(samples: int = 3000) -> Dataset:
    plain = fake(samples)
    return dataclasses.replace(plain, labels=np.random.default_rng(0).permutation(plain.labels))


def kept_and_whole(partition, whole):
    """For training and validation: images of each client and class that are kept, and that there were."""
    for part in ("train", "validation"):
        pair = [
            np.stack([np.bincount(shuffled().labels[getattr(one, part)(k)], minlength=10) for k in range(one.clients)])
            for one in (partition, whole)
        ]
        yield pair


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_thinning_leaves_the_tests_whole_and_takes_the_same_share_of_every_class_of_every_client(setting, validation):
    whole, thin = (make_partition(shuffled(), name, 3, validation) for name in (setting, f"{setting}-train700"))
    for client in range(whole.clients):
        assert np.array_equal(thin.test(client), whole.test(client)) and len(whole.test(client))
        assert np.isin(thin.train(client), whole.train(client)).all() and len(thin.train(client))
        assert np.isin(thin.validation(client), whole.validation(client)).all()
    assert thin.is_train.sum() + thin.is_validation.sum() == 700
    (train, trained), (aside, all_aside) = kept_and_whole(thin, whole)
    assert np.array_equal(train, thin.counts) and np.array_equal(thin.dropout, whole.dropout)
    assert aside.sum() == round(700 * all_aside.sum() / (trained + all_aside).sum())
    for kept, held in ((train, trained), (aside, all_aside)):
        assert (abs(kept - held * kept.sum() / max(1, held.sum())) < 1).all()
    assert (train[trained > 0] > 0).all(), "every class that a client had"
    check_match(shuffled(), thin)
    assert thin.specification["train_samples"] == 700 and "train_samples" not in whole.specification


def test_thinning_is_decided_by_the_seed_and_a_larger_part_holds_the_images_of_a_smaller_one():
    setting = "dirichlet-alpha0.1-clients5"
    first, again, other, more = (
        make_partition(shuffled(), f"{setting}-train{size}", seed)
        for size, seed in ((300, 0), (300, 0), (300, 1), (900, 0))
    )
    assert np.array_equal(first.is_train, again.is_train) and not np.array_equal(first.is_train, other.is_train)
    assert (more.counts >= first.counts).all() and more.is_train[first.is_train].all()


@given(
    sizes=st.lists(st.lists(st.integers(0, 300), min_size=3, max_size=3), min_size=1, max_size=8),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_what_is_kept_is_exact_in_total_within_one_of_each_share_and_empties_no_client_needlessly(sizes, share, seed):
    sizes = np.array(sizes)
    total = round(share * sizes.sum())
    quota, shares = quota_of(sizes, total, np.random.default_rng(seed)), sizes * total / max(1, sizes.sum())
    assert quota.sum() == total and (quota >= 0).all() and (quota <= sizes).all()
    emptied = (quota.sum(1) == 0) & (sizes.sum(1) > 0)
    assert not emptied.any() or quota.sum(1).max() <= 1
    moved = int((shares.sum(1)[quota.sum(1) > 0] < 1).sum())  # clients that may have been given another's image
    assert (abs(quota - shares) < 1 + (moved if moved else 1e-9)).all()


def test_a_class_that_would_vanish_from_a_client_is_rounded_up_before_larger_remainders():
    sizes, stream = np.array([[1, 94], [55, 50]]), np.random.default_rng(0)
    assert (sizes * 50 / 200).tolist() == [[0.25, 23.5], [13.75, 12.5]]
    assert quota_of(sizes, 50, stream).tolist() == [[1, 23], [14, 12]]


def test_a_client_whose_share_is_below_one_image_is_left_one_where_others_have_more():
    sizes = np.array([[980, 0], [0, 10], [6, 4]])
    assert quota_of(sizes, 50, np.random.default_rng(0)).sum(1).tolist() == [48, 1, 1]
    assert quota_of(sizes, 3, np.random.default_rng(0)).sum(1).tolist() == [1, 1, 1]


def test_a_partition_file_of_before_there_were_validation_images_has_none(tmp_path):
    save_partition(tmp_path / "new.npz", make_partition(fake(), "iid-clients5", seed=0))
    with np.load(tmp_path / "new.npz") as archive:
        arrays = {name: archive[name] for name in archive.files if name != "is_validation"}
    np.savez(tmp_path / "old.npz", **arrays)
    new, old = (load_partition(tmp_path / name) for name in ("new.npz", "old.npz"))
    assert not old.is_validation.any() and np.array_equal(old.is_train, new.is_train)


def test_a_partition_file_gives_the_partition_back_and_is_the_same_every_time(tmp_path):
    setting = "pathological-classes2-clients10-missing20"
    partition = make_partition(fake(), setting, seed=0, validation=True)
    save_partition(tmp_path / "a.npz", partition)
    save_partition(tmp_path / "b.npz", make_partition(fake(), setting, seed=0, validation=True))
    loaded = load_partition(tmp_path / "a.npz")
    for name in ARRAYS:
        there, back = getattr(partition, name), getattr(loaded, name)
        assert np.array_equal(there, back) and there.dtype == back.dtype
    assert loaded.specification == partition.specification
    assert loaded.specification["seed"] == 0 and loaded.specification["missing"] == 20
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_partition_of_other_images_is_refused():
    partition = make_partition(fake(), "iid-clients5", seed=0)
    check_match(fake(), partition)
    for other in (fake(1300), fake(name="other")):
        with pytest.raises(UserError, match="make the partition again"):
            check_match(other, partition)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("iid-clients2000", "more clients .2000. than images"),
        ("dirichlet-alpha0.1-clients120", "clients of at least 10 images"),
        ("dirichlet-alpha0.0001-clients20", "1000 draws"),
        ("pathological-classes2-clients10-missing4", "is 0 of them; raise it"),
        ("pathological-classes2-clients10-missing96", "is 10 of them; lower it"),
        ("pathological-classes2-clients1-missing20", "none would remain"),
        ("pathological-classes9-clients9-missing20", "only 8 are not monopoly classes"),
        ("pathological-classes1-clients3", "cannot hold all 10 classes"),
        ("pathological-classes10-clients125", "has 115 images for 125 clients"),
        ("iid-clients5-train1100", "fake has 1075 images that are not for tests, fewer than 1100"),
    ],
)
def test_a_setting_that_the_images_cannot_meet_is_refused(setting, words):
    with pytest.raises(UserError, match=words) as refused:
        make_partition(fake(), setting, seed=0)
    assert setting in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", [*EXAMPLES.values(), *SETTINGS, *(f"{text}-train60" for text in SETTINGS)])
def test_a_setting_is_its_name_and_its_name_the_setting(text):
    assert str(parse_setting(text)) == text
    assert parse_setting(str(parse_setting(text))) == parse_setting(text)


def test_every_kind_of_setting_has_a_partitioner():
    assert set(EXAMPLES) == {*PARTITIONERS, "natural"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dirichlet-alpha0-clients5", "alpha is '0'"),
        ("dirichlet-alpha-0.1-clients5", "alpha is '-0.1'"),
        ("dirichlet-alphanan-clients5", "alpha is 'nan'"),
        ("dirichlet-clients5", "alpha is missing"),
        ("dirichlet-alpha0.1-clients0", "clients is 0"),
        ("dirichlet-alpha0.1-clients-5", "clients is '-5'"),
        ("dirichlet-alpha0.1-clients5-clients6", "twice"),
        ("dirichlet-alpha0.1-clients5-balanced2", "takes no value"),
        ("dirichlet-alpha0.1-clients5-min0", "min is 0"),
        ("iid-alpha0.1-clients5", "'alpha0.1' does not belong there"),
        ("iid-clients5-train4", "train is 4; 5 clients need at least as many"),
        ("iid-clients5-trainmany", "train is 'many', not a whole number"),
        ("pathological-classes2-clients10-missing120", "more monopoly classes than classes"),
        ("pathological-classes0-clients10", "classes is 0"),
        ("zipf-clients5", "unknown kind 'zipf'"),
        ("", "unknown kind ''"),
    ],
)
def test_a_setting_that_says_nothing_sensible_is_refused(text, words):
    with pytest.raises(UserError, match=words) as refused:
        parse_setting(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("clients", [1, 4, 50])
def test_sorting_by_client_finds_what_a_search_for_each_finds(clients: int) -> None:
    client = np.random.default_rng(clients).integers(-1, clients, 60)
    found = by_client(client, clients)
    assert len(found) == clients and {one.dtype for one in found} == {np.dtype(np.int64)}
    for number, positions in enumerate(found):
        assert np.array_equal(positions, np.flatnonzero(client == number))
    unused = by_client(np.full(3, -1), clients)
    assert [len(one) for one in unused] == [0] * clients


def test_train_and_test_parts_are_the_images_of_their_client() -> None:
    partition = make_partition(fake(), "dirichlet-alpha0.1-clients5-min1", 0)
    for client in range(partition.clients):
        own = partition.client == client
        assert np.array_equal(partition.train(client), np.flatnonzero(own & partition.is_train))
        assert np.array_equal(partition.test(client), np.flatnonzero(own & ~partition.is_train))
