"""Tables: what stands where, what is bold, and what is said where there is no number."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest

from apfl.errors import UserError
from apfl.paper import published
from apfl.paper.numbers.metrics import collect
from apfl.paper.report.sections import table_section
from apfl.paper.tables import accuracy as tables
from apfl.paper.tables import formats as render
from apfl.paper.tables import table1
from apfl.storage.files import write_npz
from apfl.storage.tables import write_parquet
from tests.helpers.paper_runs import DROPOUT, both, cell, row, write_cell, write_run


def build(results, cells, name="table2", partial=False):
    runs = [run for ours in cells for run in ours.runs]
    return tables.build(name, cells, collect(results, runs, partial))


def lines(table, panel=0):
    """By (section, group, line), the entries of a panel by column."""
    shown = table.panels[panel]
    return {
        (section.label, group.label, line.name): dict(zip(shown.columns, line.entries, strict=True))
        for section in shown.sections
        for group in section.groups
        for line in group.lines
    }


PLACE = ("CIFAR-10", "5 clients, \N{GREEK SMALL LETTER ALPHA} = 0.1")


def test_table_2_shows_published_pooled_and_own_of_each_method(tmp_path):
    ours = cell("FedAvg")
    for run, (pooled, own) in zip(ours.runs, ((0.50, 0.70), (0.52, 0.80)), strict=True):
        write_run(tmp_path, run, [row(pooled), row(own, test="own")])
    found = lines(build(tmp_path, [ours]))
    assert found[(*PLACE, "published")]["FedAvg"].text == "65.77 ± 1.77"
    assert found[(*PLACE, "pooled test")]["FedAvg"].text == "51.00 ± 1.41"
    assert found[(*PLACE, "own test")]["FedAvg"].text == "75.00 ± 7.07"


def test_what_the_study_does_not_run_says_so(tmp_path):
    ours = cell("FedAvg")
    write_cell(tmp_path, ours, 0.5, 0.5)
    table = build(tmp_path, [ours])
    found = lines(table)
    assert found[(*PLACE, "pooled test")]["SCAFFOLD"].text == "not run"
    assert found[("CIFAR-10", PLACE[1].replace("0.1", "0.01"), "reproduced")]["FedAvg"].text == "not run"
    absent = lines(table, -1)
    assert {section for section, _, _ in absent} == {"CIFAR-100", "EMNIST letters", "Fashion-MNIST"}
    assert {entry.text for (_, _, name), row in absent.items() if name == "reproduced" for entry in row.values()} == {
        "not run"
    }
    assert len(table.rows) == 2 * 140
    assert table.rows.loc[table.rows["status"] != "ok", "reproduced_mean"].isna().all()


def test_best_is_bold_in_each_line_for_published_and_reproduced_apart(tmp_path):
    cells = [cell("FedAvg"), cell("Local"), cell("AP-FL", reading="literal", semantics="clip")]
    for ours, accuracy in zip(cells, (0.7, 0.6, 0.5), strict=True):
        write_cell(tmp_path, ours, accuracy, accuracy)
    found = lines(build(tmp_path, cells))
    names = ("published", "pooled test", "own test")
    bold = {name: [column for column, entry in found[(*PLACE, name)].items() if entry.bold] for name in names}
    assert bold["published"] == ["AP-FL"]
    assert bold["pooled test"] == bold["own test"] == ["FedAvg"]


def test_entries_that_print_alike_are_both_bold(tmp_path):
    cells = [cell("FedAvg", seeds=(0,)), cell("Local", seeds=(0,)), cell("SCAFFOLD", seeds=(0,))]
    for ours, accuracy in zip(cells, (0.700001, 0.700002, 0.6999), strict=True):
        write_cell(tmp_path, ours, accuracy)
    found = lines(build(tmp_path, cells))[(*PLACE, "own test")]
    assert [column for column, entry in found.items() if entry.bold] == ["Local", "FedAvg"]


def test_the_published_best_is_that_of_the_paper(tmp_path):
    ours = cell("FedAvg", seeds=(0,))
    write_cell(tmp_path, ours, 0.5)
    table = build(tmp_path, [ours])
    bold = {
        (section, group): column
        for panel in range(len(table.panels))
        for (section, group, name), row in lines(table, panel).items()
        if name == "published"
        for column, entry in row.items()
        if entry.bold
    }
    others = {place: column for place, column in bold.items() if column != "AP-FL"}
    alpha = "\N{GREEK SMALL LETTER ALPHA} = 0.1"
    assert len(bold) == 20
    assert others == {
        ("EMNIST letters", f"5 clients, {alpha}"): "SCAFFOLD",
        ("EMNIST letters", f"10 clients, {alpha}"): "FedDF",
    }


def test_a_stand_in_never_stands_beside_a_published_number(tmp_path):
    ours = cell("AP-FL", dataset="emnist_letters_a_to_l", reading="literal", semantics="clip")
    write_cell(tmp_path, ours, 0.5, 0.5)
    table = build(tmp_path, [ours])
    rows = table.rows[table.rows["dataset"] == "emnist_letters_a_to_l"]
    assert rows["published_mean"].isna().all()
    assert {section for section, _, _ in lines(table)} == {"Letters A to L (stand-in)"}
    assert "The paper prints nothing on: Letters A to L (stand-in)." in table.notes


def test_a_diverged_cell_and_a_partial_one_say_so(tmp_path):
    diverged, partial = cell("FedAvg"), cell("Local")
    write_cell(tmp_path, diverged, 0.5, 0.5)
    write_run(tmp_path, diverged.runs[1], both(0.5), status="diverged")
    write_run(tmp_path, partial.runs[0], both(0.5, model="local"), module="local")
    table = build(tmp_path, [diverged, partial], partial=True)
    found = lines(table)[(*PLACE, "own test")]
    assert found["FedAvg"].text == "diverged"
    assert found["Local"].text == "50.00 (1/2)"
    assert found["Local"].bold
    assert not found["FedAvg"].bold


def test_readings_share_a_title_and_the_literal_one_stands_beside_the_published_number(tmp_path):
    cells = [
        cell("AP-FL", reading="soft-labels", semantics="clip"),
        cell("AP-FL", reading="literal", semantics="clip"),
    ]
    for ours, accuracy in zip(cells, (0.6, 0.5), strict=True):
        write_cell(tmp_path, ours, accuracy, accuracy)
    table = build(tmp_path, cells)
    found = lines(table)
    assert table.panels[0].columns[-2:] == ("AP-FL", "AP-FL [soft-labels]")
    assert "Square brackets name other readings of what the paper leaves open." in table.notes
    assert found[(*PLACE, "published")]["AP-FL"].text == "69.46 ± 0.18"
    assert not found[(*PLACE, "published")]["AP-FL [soft-labels]"].number
    assert found[(*PLACE, "own test")]["AP-FL"].text.startswith("50.00")


def test_further_methods_have_panels_of_their_own_and_the_best_is_of_all(tmp_path):
    cells = [cell("FedAvg", seeds=(0,)), *(cell(f"Other {number}", seeds=(0,)) for number in range(11))]
    for number, ours in enumerate(cells):
        write_cell(tmp_path, ours, 0.5 + number / 100)
    table = build(tmp_path, cells)
    assert [len(panel.columns) for panel in table.panels] == [7, 6, 5, 7]
    assert [panel.in_study for panel in table.panels] == [True, True, True, False]
    assert not any(entry.bold for entry in lines(table)[(*PLACE, "own test")].values())
    assert lines(table, 2)[(*PLACE, "own test")]["Other 10"].bold
    assert (*PLACE, "published") not in lines(table, 1)


def test_tuned_columns_that_do_not_fit_beside_the_published_ones_follow_them_where_something_is_tuned(tmp_path):
    titles = ("Local", "FedAvg", "FedProx", "SCAFFOLD", "AP-FL")
    cells = [cell(title + tuned, seeds=(0,)) for title in titles for tuned in ("", " (tuned)")]
    cells += [cell(title, dataset="cifar100", seeds=(0,)) for title in titles]
    for ours in cells:
        write_cell(tmp_path, ours, 0.5)
    published, tuned, _ = build(tmp_path, cells).panels
    assert published.columns[-1] == "AP-FL" and [part.label for part in published.sections] == ["CIFAR-10", "CIFAR-100"]
    assert tuned.columns == tuple(f"{title} (tuned)" for title in titles)
    assert [part.label for part in tuned.sections] == ["CIFAR-10"]
    open_part = table_section(build(tmp_path, cells)).body.partition("<details>")[0]
    assert "AP-FL (tuned)" in open_part and "Published results on" not in open_part


def test_tuned_columns_follow_the_same_methods_as_published_and_only_the_first_are_open(tmp_path):
    further = tuple(f"Other {number}" for number in range(5))
    titles = ("Local", "FedAvg", *further)
    cells = [cell(title + tuned, seeds=(0,)) for title in titles for tuned in ("", " (tuned)")]
    for ours in cells:
        write_cell(tmp_path, ours, 0.5)
    table = build(tmp_path, cells)
    expected = [
        ("Methods of the paper", ("Local", "FedAvg", "FedProx", "SCAFFOLD", "FedGen", "FedDF", "AP-FL")),
        ("Methods of the paper, tuned", ("Local (tuned)", "FedAvg (tuned)")),
        ("Further methods", further),
        ("Further methods, tuned", tuple(f"{title} (tuned)" for title in further)),
    ]
    assert [(panel.title, panel.columns) for panel in table.panels if panel.in_study] == expected
    open_part = table_section(table).body.partition("<details>")[0]
    assert "FedAvg (tuned)" in open_part and "Further methods" not in open_part


def test_tuned_columns_that_are_not_run_are_folded_until_one_is(tmp_path):
    titles = ("Local", "FedAvg", "FedProx", "SCAFFOLD", "AP-FL")
    cells = [cell(title + tuned, seeds=(0,)) for title in titles for tuned in ("", " (tuned)")]
    for ours in cells:
        if not ours.title.endswith("(tuned)"):
            write_cell(tmp_path, ours, 0.5)
    body = table_section(build(tmp_path, cells, partial=True)).body
    assert (
        "AP-FL (tuned)" not in body.partition("<details>")[0] and "<summary>Methods, tuned (not run)</summary>" in body
    )
    write_cell(tmp_path, cells[1], 0.5)
    assert "AP-FL (tuned)" in table_section(build(tmp_path, cells, partial=True)).body.partition("<details>")[0]


def test_fashion_mnist_is_matched_without_an_alpha(tmp_path):
    ours = cell(
        "Local",
        dataset="fashion_mnist",
        setting="pathological-classes5-clients5",
        axis={"clients": 5, "alpha": "-"},
        seeds=(0,),
    )
    write_cell(tmp_path, ours, 0.5)
    found = lines(build(tmp_path, [ours]))
    assert found[("Fashion-MNIST", "5 clients, 5 classes each", "published")]["Local"].text == "49.15 ± 0.19"


def test_table_3_shows_the_dropout_clients_on_three_tests(tmp_path):
    ours = cell("Local", output="table3", setting=DROPOUT, seeds=(0,))
    tests = {"own": 0.4, "monopoly": 0.3, "pooled": 0.2}
    dropout = [row(value, client=8, role="dropout", test=test, model="local") for test, value in tests.items()]
    write_run(tmp_path, ours.runs[0], [*dropout, *both(0.9, model="local")])
    found = lines(build(tmp_path, [ours], "table3"))
    shown = {name: found[("CIFAR-10", "MC 20 %", name)]["Local"].text for name in ("published", "own test")}
    assert shown == {"published": "26.74 ± 0.49", "own test": "40.00"}
    assert found[("CIFAR-10", "MC 20 %", "monopoly classes")]["Local"].text == "30.00"
    assert found[("CIFAR-10", "MC 20 %", "pooled test")]["Local"].text == "20.00"


def test_table_4_shows_the_friend_on_both_kinds_of_clients_by_semantics(tmp_path):
    cells = [
        cell("AP-FL", output="table4", setting=DROPOUT, seeds=(0,), model="friend", semantics=name, reading="literal",
             axis={"missing": 20, "semantics": name})
        for name in ("clip", "onehot")
    ]  # fmt: skip
    for ours, accuracy in zip(cells, (0.5, 0.6), strict=True):
        dropout = [*both(accuracy - 0.3, client=8, role="dropout", model="friend")]
        monopoly = row(0.0, client=8, role="dropout", model="friend", test="monopoly")
        write_run(tmp_path, ours.runs[0], [*both(accuracy, model="friend"), *dropout, monopoly])
    table = build(tmp_path, cells, "table4")
    found = lines(table)
    assert table.panels[0].columns == ("W2V", "BERT", "CLIP", "one-hot (control)")
    non_dropout, dropout = ("CIFAR-10", "A_n, non-dropout clients"), ("CIFAR-10", "A_d, dropout clients")
    assert found[(*non_dropout, "published")]["CLIP"].text == "58.21"
    assert found[(*dropout, "published")]["CLIP"].text == "49.79"
    assert found[(*non_dropout, "own test")]["one-hot (control)"].text == "60.00"
    assert found[(*dropout, "own test")]["CLIP"].text == "20.00"
    assert found[(*dropout, "monopoly classes")]["CLIP"].text == "0.00"
    assert (*non_dropout, "monopoly classes") not in found


def test_a_cell_that_other_data_sets_have_says_what_its_data_set_lacks(tmp_path):
    def asked(title, output="table2", **changes):
        made = cell(title, output=output, seeds=(0,), model="friend" if output == "table4" else "global", **changes)
        write_cell(tmp_path, made, 0.5)
        return made

    alike = {"output": "table4", "reading": "literal"}
    friends = [
        asked(
            "AP-FL", dataset=dataset, setting=DROPOUT, semantics=name, axis={"missing": 20, "semantics": name}, **alike
        )
        for dataset, name in (("cifar10", "clip"), ("cifar10", "w2v"), ("fashion_mnist", "clip"))
    ]
    here = lines(build(tmp_path, friends, "table4"))[("Fashion-MNIST", "A_d, dropout clients", "own test")]
    assert [here[name].text for name in ("W2V", "BERT")] == ["no embedding", "not run"]
    tuned = [asked(title) for title in ("FedAvg", "FedAvg (tuned)")] + [asked("FedAvg", dataset="cifar100")]
    found = lines(build(tmp_path, tuned))[("CIFAR-100", PLACE[1], "pooled test")]
    assert [found[name].text for name in ("FedAvg (tuned)", "FedProx")] == ["not tuned", "not run"]


def test_a_setting_unlike_the_papers_gets_no_published_number(tmp_path):
    ours = cell("Local", output="table3", setting=DROPOUT.replace("10-", "6-"), seeds=(0,))
    dropout = [row(0.4, client=5, role="dropout", test=test, model="local") for test in ("own", "monopoly", "pooled")]
    write_run(tmp_path, ours.runs[0], dropout)
    table = build(tmp_path, [ours], "table3")
    assert table.rows.loc[table.rows["clients"] == "6", "published_mean"].isna().all()
    assert ("CIFAR-10", "MC 20 %, 6 clients", "own test") in lines(table)


def test_clients_left_out_are_told(tmp_path):
    ours = cell("FedAvg", seeds=(0,))
    write_run(tmp_path, ours.runs[0], [*both(0.5), row(0.5, client=1)])
    notes = build(tmp_path, [ours]).notes
    assert any("CIFAR-10, 5 clients" in note and "1 of 2 (own)" in note for note in notes)


def test_two_cells_in_one_place_are_refused(tmp_path):
    with pytest.raises(UserError, match="two cells"):
        build(tmp_path, [cell("FedAvg"), cell("FedAvg", method="other")], partial=True)


def test_the_order_of_metrics_and_cells_changes_no_byte(tmp_path):
    cells = [cell("FedAvg"), cell("Local"), cell("Other")]
    generator = np.random.default_rng(0)
    for ours in cells:
        for run in ours.runs:
            rows = [
                row(value, client=client, train=1 + client, test=test, model=ours.model, round=number)
                for client in range(7)
                for test in ("pooled", "own")
                for number, value in enumerate(generator.random(3))
            ]
            write_run(tmp_path, run, rows, module=ours.method)
    before = {name: make(build(tmp_path, cells)) for name, make in render.FORMATS.items()}
    for ours in cells:
        for run in ours.runs:
            path = tmp_path / run / "metrics.parquet"
            write_parquet(path, pd.read_parquet(path).sample(frac=1, random_state=1))
    after = {name: make(build(tmp_path, [cells[1], cells[0], cells[2]])) for name, make in render.FORMATS.items()}
    assert after == before


def partition(results, classes=10, clients=10, change=None):
    counts = np.zeros((clients, classes), dtype=np.int64)
    for device in published.table1():
        counts[device.client, list(device.classes)] = 5
    if change is not None:
        counts[change] = np.roll(counts[change], 1)
    dropout = np.arange(clients) == 8
    ours = cell("", output="table1", dataset="digits", setting=DROPOUT, seeds=(4,))
    write_npz(results / ours.runs[0], counts=counts, dropout=dropout)
    return ours


def test_table_1_sets_the_partition_beside_the_printed_one(tmp_path):
    table = table1.build(partition(tmp_path), tmp_path)
    printed, ours = table.panels[0].sections[0].groups[0].lines
    assert [entry.text for entry in printed.entries] == [entry.text for entry in ours.entries]
    assert printed.entries[8].text == "[8, 9]"
    assert ours.name == "Digits, seed 4"
    assert table.notes == ("The partition is the printed one.",)


def test_table_1_names_the_clients_that_differ(tmp_path):
    assert table1.build(partition(tmp_path, change=3), tmp_path).notes == ("The partition differs at client 3.",)


def test_table_1_without_its_partition_is_refused_or_not_run(tmp_path):
    ours = cell("", output="table1", dataset="digits", setting=DROPOUT)
    with pytest.raises(UserError, match="apfl partition"):
        table1.build(ours, tmp_path)
    table = table1.build(ours, tmp_path, partial=True)
    assert set(table.rows["status"]) == {"not run"}
    assert {entry.text for entry in table.panels[0].sections[0].groups[0].lines[1].entries} == {"not run"}


def test_the_csv_file_has_one_row_for_each_cell_and_test(tmp_path):
    ours = cell("FedAvg")
    write_cell(tmp_path, ours, 0.5, 0.6)
    rows = list(csv.DictReader(io.StringIO(render.csv(build(tmp_path, [ours])))))
    (found,) = [line for line in rows if line["seeds_planned"] == "2" and line["test"] == "own"]
    expected = {
        "dataset": "cifar10",
        "published_mean": "65.7700",
        "reproduced_mean": "55.0000",
        "reproduced_std": "7.0711",
        "plain_mean": "55.0000",
        "seeds": "2",
        "clients_evaluated": "2",
        "clients_left_out": "0",
        "status": "ok",
    }
    assert {name: found[name] for name in expected} == expected


def test_other_readings_of_table_4_have_a_panel_each(tmp_path):
    cells = [
        cell("AP-FL", output="table4", setting=DROPOUT, seeds=(0,), model="friend", semantics=name, reading=reading,
             axis={"missing": 20, "semantics": name})
        for name in ("clip", "bert", "w2v", "minilm", "onehot")
        for reading in ("soft-labels", "literal")
    ]  # fmt: skip
    for ours in cells:
        rows = [line for role in ("non_dropout", "dropout") for line in both(0.5, role=role, model="friend")]
        write_run(tmp_path, ours.runs[0], rows)
    table = build(tmp_path, cells, "table4")
    semantics = ("W2V", "BERT", "CLIP", "MiniLM", "one-hot (control)")
    assert [(panel.title, panel.columns) for panel in table.panels[:2]] == [
        ("Semantics", semantics),
        ("Reading soft-labels", semantics),
    ]
    assert "Where no reading is named, it is literal." in table.notes
