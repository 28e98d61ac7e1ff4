"""docs/measurements/profile.csv: where the time of a step goes, and what docs/performance.md says of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.profile import FILE, MOVING, OPERATIONS, REST, kind, section, shares


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("aten::mkldnn_convolution", "convolutions, forward"),
        ("aten::convolution_backward", "convolutions, backward"),
        ("aten::addmm", "linear layers"),
        ("aten::native_batch_norm_backward", "batch normalisation"),
        ("aten::leaky_relu_backward", "activations"),
        ("aten::max_pool2d_with_indices", "pooling"),
        ("aten::add_", MOVING),
        ("aten::_fused_adam_", "Adam"),
        ("aten::addcmul", REST),
    ],
)
def test_an_operation_of_the_profile_has_its_kind(operation: str, expected: str) -> None:
    assert kind(operation) == expected


def test_shares_are_of_the_second_epoch_alone() -> None:
    matrix = torch.ones(200, 200)

    def run(on_epoch) -> None:
        matrix.tanh()
        on_epoch()
        matrix @ matrix
        on_epoch()

    found = shares(run)
    assert sum(found.values()) == pytest.approx(1) and found["activations"] == 0 < found["linear layers"]


def test_every_part_of_a_step_is_on_the_page(tmp_path: Path) -> None:
    measured = pd.read_csv(FILE)
    parts = measured[measured["quantity"].isin([*OPERATIONS, REST])]
    assert (parts.groupby(["work", "precision"])["value"].sum() - 100).abs().max() < 0.1
    of_one = measured["work"] == "generator"
    measured.loc[of_one & measured["quantity"].isin([MOVING, REST]), "value"] = 30.0
    measured.loc[measured["quantity"] == "with slices differentiated", "value"] = 1.5
    measured.to_csv(tmp_path / "profile.csv", index=False)
    text = " ".join(section(tmp_path / "profile.csv").split())
    assert "more than 2.50 times as fast" in text and "takes 1.50 times as long" in text  # 1 / (1 - 0.6)
    assert all(f"| {quantity} |" in text for quantity in measured["quantity"])


def test_what_the_page_says_of_the_aim_is_so() -> None:
    found = pd.read_csv(FILE).set_index(["quantity", "work", "precision"])["value"]
    assert (100 / (100 - found[MOVING] - found[REST])).max() < 1.2, "the page says otherwise"
