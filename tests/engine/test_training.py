"""Local training and the synchronous server, held to invariants."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from apfl.data.dataset import Dataset
from apfl.engine.device import Engine
from apfl.engine.images import SyntheticImages, laid_out
from apfl.engine.networks import CNN, Model, build_network, initial_parameters
from apfl.engine.optimizers import Optimizer
from apfl.engine.settings import TrainingConfig
from apfl.engine.training import train
from apfl.engine.work import Diverged, Gradient, Phase, Task, Work, batches, cross_entropy
from apfl.errors import UserError
from apfl.federation.aggregation import weighted_mean
from apfl.federation.method import load_method
from apfl.federation.problem import run_all, run_work
from apfl.federation.synchronous import Round, run
from apfl.stages.problem import images_of
from tests.helpers.problems import Tiny, distance, equal, parameters, tiny_problem


def last(problem, method="fedavg", **options) -> Round:
    return [*run(load_method(method, options.pop("parameters", None)), problem, **options)][-1]


def test_the_papers_network_has_the_papers_number_of_parameters() -> None:
    assert sum(value.numel() for value in CNN(3, 10).parameters()) == 878_538
    assert CNN(1, 26)(torch.zeros(2, 1, 32, 32)).shape == (2, 26)
    lenet = build_network({"name": "lenet"}, 3, 10)
    sizes = (3 * 25 * 6 + 6, 6 * 25 * 16 + 16, 400 * 120 + 120, 120 * 84 + 84, 84 * 10 + 10)
    assert sum(value.numel() for value in lenet.parameters()) == sum(sizes) == 62_006


def test_momentum_of_the_study_is_that_of_local_training() -> None:
    assert TrainingConfig(1, optimizer="sgd", momentum=0.9).phase().optimizer == Optimizer("sgd", 2e-4, 0.9)
    assert TrainingConfig(1, optimizer="sgd").phase().optimizer.momentum == 0


def test_pooling_before_relu_is_the_papers_order_of_layers() -> None:
    network = CNN(3, 10)
    conv1, pool, relu, conv2, *_, linear, _ = network.body
    images = torch.randn(4, 3, 32, 32)
    features = pool(relu(conv2(pool(relu(conv1(images))))))
    assert torch.equal(network(images), network.head(relu(linear(features.flatten(1)))))


def test_features_and_classify_make_up_the_network() -> None:
    model, params = Model(CNN(1, 5)), initial_parameters({"name": "cnn"}, 1, 5, seed=0)
    images = torch.randn(3, 1, 32, 32)
    assert torch.equal(model(params, images), model.classify(params, model.features(params, images)))


def test_initial_parameters_depend_on_the_seed_alone_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = initial_parameters({"name": "cnn"}, 3, 10, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert equal(first, initial_parameters({"name": "cnn"}, 3, 10, seed=4))
    assert not equal(first, initial_parameters({"name": "cnn"}, 3, 10, seed=5))


def test_an_epoch_shows_every_image_once_and_keeps_the_short_batch() -> None:
    phase = Phase(Gradient(), None, epochs=2, batch_size=4)
    shown = [*batches(phase, torch.arange(10, 20), torch.Generator().manual_seed(0))]
    assert [len(rows) for rows in shown] == [4, 4, 2, 4, 4, 2]
    assert sorted(torch.cat(shown[:3]).tolist()) == sorted(torch.cat(shown[3:]).tolist()) == [*range(10, 20)]
    limited = [*batches(dataclasses.replace(phase, steps=4), torch.arange(10), torch.Generator().manual_seed(0))]
    assert [len(rows) for rows in limited] == [4, 4, 2, 4]


def test_local_training_equals_a_plain_torch_loop() -> None:
    problem = tiny_problem(optimizer="adam")
    network = Tiny(1, 3)
    network.load_state_dict(problem.start)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    phase = problem.training.phase()
    result = run_work(problem, Work(0, problem.start, (phase,)), round=1)
    from apfl.streams import torch_stream

    stream = torch_stream(problem.seed, "batches/local/0/0", round=1, client=0)
    for rows in batches(phase, problem.train[0], stream):
        batch = problem.images.batch(rows)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(batch.images), batch.labels).backward()
        optimizer.step()
    assert distance(result.params, dict(network.named_parameters())) < 1e-6
    assert result.steps == 10 and result.samples == 46


def test_the_exact_gradient_does_not_depend_on_how_it_is_cut(monkeypatch) -> None:
    problem = tiny_problem(optimizer="sgd")
    work = Work(2, problem.start, (problem.training.phase(batch_size=0, steps=3),))
    whole = run_work(problem, work, 1)
    monkeypatch.setattr("apfl.engine.training.FULL_GRADIENT_CHUNK", 7)
    assert 0 < distance(whole.params, run_work(problem, work, 1).params) < 1e-6
    assert distance(whole.params, problem.start) > 1e-3


def test_frozen_parameters_do_not_move() -> None:
    problem = tiny_problem()
    phase = problem.training.phase(trainable=lambda name: name.startswith("head."))
    params = run_work(problem, Work(0, problem.start, (phase,)), 1).params
    moved = {name for name in params if not torch.equal(params[name], problem.start[name])}
    assert moved == {"head.weight", "head.bias"}


def test_a_client_without_samples_returns_what_it_started_from() -> None:
    problem = tiny_problem(sizes=(9, 0, 1))
    result = run_work(problem, Work(1, problem.start, (problem.training.phase(),)), 1)
    assert equal(result.params, problem.start) and result.steps == 0
    now = last(problem)
    assert not equal(now.state["global"], problem.start)


def test_training_does_not_change_its_input() -> None:
    problem = tiny_problem()
    before = {name: value.clone() for name, value in problem.start.items()}
    last(problem)
    assert equal(before, problem.start)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    problem = tiny_problem()
    phase = problem.training.phase(Gradient(lambda *a: cross_entropy(*a) * float("nan")))
    with pytest.raises(Diverged, match="client 2"):
        run_work(problem, Work(2, problem.start, (phase,)), 1)


def test_the_mean_of_models_is_weighted_and_exact_on_equal_models() -> None:
    a, b = parameters(Tiny(1, 3), 1), parameters(Tiny(1, 3), 2)
    mean = weighted_mean([a, b], [1, 3])
    assert all(torch.allclose(mean[name], 0.25 * a[name] + 0.75 * b[name]) for name in a)
    assert equal(weighted_mean([a, a, a], [7, 11, 3]), a)


def test_one_clients_fedavg_is_central_training() -> None:
    problem = tiny_problem(sizes=(17,), rounds=3)
    params = problem.start
    for number in (1, 2, 3):
        work = Work(0, params, (problem.training.phase(),))
        params = train(problem.model, Task(work, problem.images, problem.train[0], 0, number), problem.engine).params
    assert equal(last(problem).state["global"], params)


def test_local_is_fedavg_of_each_client_alone() -> None:
    problem = tiny_problem(rounds=2)
    local = load_method("local")
    *_, now = run(local, problem)
    for client in problem.clients:
        alone = load_method("fedavg")
        params = problem.start
        for number in (1, 2):
            (work,) = alone.client_work({"global": params}, problem, number, [client])
            params = run_work(problem, work, number).params
        assert equal(now.state["clients"][str(client)], params)


@pytest.mark.parametrize("method", ["fedavg", "local"])
def test_the_order_in_which_clients_are_trained_changes_no_bit(method) -> None:
    problem = tiny_problem(sizes=(23, 12, 30, 8))
    kept = {}

    def remember(problem, work):
        for piece, number in work:
            kept.setdefault(number, []).append(piece)
        return run_all(problem, work)

    forward = [*run(load_method(method), problem, carry_out=remember)][-1]
    for number, pieces in kept.items():
        backward = {piece.client: run_work(problem, piece, number).params for piece in reversed(pieces)}
        again = {piece.client: run_work(problem, piece, number).params for piece in pieces}
        assert all(equal(backward[client], again[client]) for client in backward)
    assert all(equal(forward.latest[client], backward[client]) for client in backward)


def test_resuming_gives_the_same_bits() -> None:
    problem = tiny_problem(rounds=4)
    rounds = [*run(load_method("fedavg"), problem)]
    again = [*run(load_method("fedavg"), problem, resume=rounds[2])]
    assert [now.round for now in again] == [3, 4]
    assert equal(again[-1].state["global"], rounds[-1].state["global"])
    assert all(equal(again[-1].latest[client], rounds[-1].latest[client]) for client in rounds[-1].latest)


def test_dropout_clients_never_touch_the_server() -> None:
    problem = tiny_problem(dropout=(1,))
    pixels = problem.images.pixels.clone()
    pixels[problem.train[1]] = 255 - pixels[problem.train[1]]
    changed = dataclasses.replace(problem, images=dataclasses.replace(problem.images, pixels=pixels))
    first, second = last(problem), last(changed)
    assert equal(first.state["global"], second.state["global"]) and first.latest.keys() == {0, 2}
    local = [[*run(load_method("local"), one)][-1].state["clients"]["1"] for one in (problem, changed)]
    assert not equal(*local)


def test_both_precisions_train_and_nearly_agree() -> None:
    fp32, bf16 = last(tiny_problem()).state["global"], last(tiny_problem(bf16=True)).state["global"]
    assert 0 < distance(fp32, bf16) < 0.05


def test_precision_auto_follows_the_processor() -> None:
    assert Engine.choose("auto", "cpu").bf16 == torch.cpu._is_avx512_bf16_supported()
    assert not Engine.choose("fp32", "cpu").bf16 and Engine.choose("bf16", "cpu").bf16


@pytest.mark.parametrize(
    "change",
    [{"rounds": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"save_rounds": (9,)}, {"evaluate_rounds": (-1,)}],
)
def test_training_settings_out_of_range_are_refused(change) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        TrainingConfig(**({"rounds": 3} | change))


class WithBatchStatistics(Tiny):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.body.append(torch.nn.BatchNorm1d(8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg", "unknown"),
        ("problems:nothing", "unknown"),
        ("tests.engine.test_training:WithBatchStatistics", "statistics"),
    ],
)
def test_unfit_networks_are_refused(name, message) -> None:
    with pytest.raises(UserError, match=message):
        build_network({"name": name}, 1, 3)


def test_a_network_of_ones_own_and_the_residual_network_train() -> None:
    for name in ("tests.helpers.problems:Tiny", "resnet"):
        network = build_network({"name": name}, 1, 3)
        problem = tiny_problem(sizes=(6, 5), network=network, rounds=1, local_epochs=1)
        assert not equal(last(problem).state["global"], problem.start)


def test_an_unknown_method_or_hyper_parameter_is_refused() -> None:
    with pytest.raises(UserError, match=r"no baselines/fedfoo\.py"):
        load_method("fedfoo")
    with pytest.raises(UserError, match="mu"):
        load_method("fedavg", {"mu": 1})


@pytest.mark.parametrize("channels", [1, 3])
def test_images_lie_in_memory_as_convolutions_like_them(channels) -> None:
    numbers = np.random.default_rng(0).integers(0, 256, (6, channels, 32, 32), dtype=np.uint8)
    dataset = Dataset("noise", numbers, np.arange(6) % 3, ("a", "b", "c"), {})
    real = images_of(dataset, torch.arange(6), torch.device("cpu")).batch(torch.tensor([3, 1]))
    plain = torch.randn(6, channels, 32, 32)
    made = SyntheticImages(plain, torch.zeros(6)).batch(torch.tensor([3, 1]))
    for batch in (real, made):
        assert batch.images.stride() == (1024 * channels, 1, 32 * channels, channels)
    assert torch.equal(made.images, plain[[3, 1]])
    assert laid_out(made.images) is made.images and laid_out(plain[:, 0, 0]).shape == (6, 32)
