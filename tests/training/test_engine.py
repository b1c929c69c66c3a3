"""The training step: its network, its determinism, its state."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.data import phantom
from dmf.errors import DmfError
from dmf.study import Study
from dmf.training import inference, protocol
from dmf.training.engine import (
    Engine,
    EpochRecord,
    build_fusion,
    build_losses,
    configure,
    resolve_precision,
)
from dmf.unet import UNet

from conftest import TINY, tiny

CPU = torch.device("cpu")
IMAGES = 20
TRAIN = np.arange(15)  # two batches of 6 and a short one of 3


@pytest.fixture(scope="module", autouse=True)
def _process_settings() -> None:
    configure(CPU, 1, "fp32")


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    made = [phantom.generate(i, seed=0, size=32) for i in range(IMAGES)]
    return np.stack([m.image for m in made]), np.stack([m.mask for m in made]).astype(np.uint8)


@pytest.fixture
def make(pictures: tuple[np.ndarray, np.ndarray]):
    def engine(configuration: str = "cb_dice-variance", seed: int = 0, **sections) -> Engine:
        parameters = Study.from_mapping(tiny(**sections)).run_parameters(configuration)
        precision = parameters.training.precision
        return Engine(parameters, *pictures, 2, TRAIN, seed=seed, device=CPU, precision=precision)

    return engine


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_unet_has_the_notebooks_parameters() -> None:
    network = UNet()
    trainable = sum(p.numel() for p in network.parameters())
    running = sum(
        b.numel() for name, b in network.named_buffers() if not name.endswith("num_batches_tracked")
    )
    assert trainable == 1_754_338
    assert trainable + running == 1_756_258  # Keras counts the running statistics


def test_unet_starts_as_keras_does() -> None:
    network = UNet(generator=torch.Generator().manual_seed(0))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            window = module.kernel_size[0] * module.kernel_size[1]
            limit = (6 / (window * (module.in_channels + module.out_channels))) ** 0.5
            assert module.weight.abs().max() <= limit
            assert module.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.2)
            assert not module.bias.any()
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.eps == 1e-3
            assert module.momentum == pytest.approx(0.01)


def test_biases_in_front_of_batch_norm_stay_zero(make) -> None:
    """Their gradient is zero; its rounding errors must not reach the optimiser."""
    network = UNet((4, 8)).double()
    biases = []
    for block in (*network.down, *network.up):
        block[0].bias_stays_zero = False
        biases.append(block[0].bias.requires_grad_())
    network(torch.rand(3, 1, 8, 8, dtype=torch.float64)).square().sum().backward()
    assert all(bias.grad.abs().max() < 1e-10 for bias in biases)
    assert network.head.weight.grad.abs().max() > 1e-3

    engine = make("cb_dice-variance")
    engine.run_epoch(1)
    weights = engine.weights()
    assert not any(weights[name].any() for name in weights if name.endswith(".0.bias"))
    assert weights["head.bias"].any()


@given(levels=st.integers(1, 4), classes=st.integers(2, 4), factor=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_unet_keeps_the_size_of_its_images(levels: int, classes: int, factor: int) -> None:
    side = 2**levels * factor
    logits = UNet([2] * levels, classes=classes).eval()(torch.rand(2, 1, side, 2 * side))
    assert logits.shape == (2, classes, side, 2 * side)


def test_unet_refuses_sides_it_cannot_halve() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        UNet()(torch.rand(1, 1, 24, 32))


def test_the_same_seed_gives_the_same_bits(make) -> None:
    first, second, other = make(seed=3), make(seed=3), make(seed=4)
    for epoch in (1, 2):
        rows = [engine.run_epoch(epoch).values for engine in (first, second, other)]
        assert np.array_equal(rows[0], rows[1])
        assert not np.array_equal(rows[0], rows[2])
    assert same(first.state(), second.state())


def test_configurations_of_a_seed_are_paired(make) -> None:
    engines = [make(name) for name in ("fixed", "tversky-mad", "cb_dice-bayesian")]
    assert len({engine.initial_weights for engine in engines}) == 1
    assert make("fixed", seed=1).initial_weights != engines[0].initial_weights
    losses = [engine.run_epoch(1).values[0, :3] for engine in engines]
    assert np.array_equal(losses[0], losses[1])
    assert np.array_equal(losses[0], losses[2])


def test_the_short_last_batch_is_kept(make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make("fixed")
    seen: list[list[int]] = []
    step = engine._step
    monkeypatch.setattr(engine, "_step", lambda i, t: (seen.append(i.tolist()), step(i, t)))
    record = engine.run_epoch(1)
    assert [len(batch) for batch in seen] == [6, 6, 3]
    assert sorted(index for batch in seen for index in batch) == TRAIN.tolist()
    assert record.values.shape == (3, len(record.columns))


OTHER_PROTOCOLS = [
    {"training": {"optimizer": "sgd", "weight_decay": 1e-4}},
    {"training": {"augmentation": "flips_and_turns", "batches": "equal"}},
    {"training": {"schedule": {"kind": "linear", "epochs": 2}, "epochs": 3}},
    {"training": {"schedule": {"kind": "polynomial"}, "steps": 8}},
    {"model": {"skip_connections": False}},
    {"losses": {"fixed_weights": [0.5, 0.25, 0.25]}},
]


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        *((name, {}) for name in ("fixed", "none-variance", "focal-mad", "cb_dice-bayesian",
          "none-random", "none-softadapt", "tversky-cov", "cb_dice-variance_ema")),
        *(("fixed", sections) for sections in OTHER_PROTOCOLS),
    ],
)  # fmt: skip
def test_a_run_continues_from_any_batch_to_the_same_bits(make, name: str, sections) -> None:
    """The state is taken in the middle of epoch 2 and put into a fresh engine."""
    make = partial(make, name, **sections)
    straight = make()
    expected = [straight.run_epoch(epoch).values for epoch in (1, 2, 3)]

    broken = make()
    broken.run_epoch(1)
    asked = iter([False, False, True])
    assert broken.run_epoch(2, lambda: next(asked)) is None
    assert broken.position == 2
    resumed = make()
    resumed.load_state(broken.state())
    assert np.array_equal(resumed.run_epoch(2).values, expected[1])
    assert np.array_equal(resumed.run_epoch(3).values, expected[2])
    assert same(resumed.state(), straight.state())


def test_a_state_of_another_network_is_refused(make) -> None:
    with pytest.raises(ValueError, match="another network"):
        make("fixed").load_state(make("fixed", model={"filters": [4, 8, 16]}).state())


def test_training_learns(make) -> None:
    engine = make("cb_dice-variance", training={"learning_rate": 0.01})
    before = engine.evaluate(TRAIN)["dice"]
    losses = [engine.run_epoch(epoch).means()["loss_dice"] for epoch in range(1, 25)]
    assert losses[-1] < 0.7 * losses[0]
    assert engine.evaluate(TRAIN)["dice"] > before + 0.2


def test_evaluation_changes_nothing_and_ignores_the_batch_size(make) -> None:
    engine = make("none-variance")
    engine.run_epoch(1)
    before = engine.state()
    scores = engine.evaluate(np.arange(IMAGES))
    assert same(before, engine.state())
    small = make("none-variance", training={"batch_size": 7})
    small.load_weights(engine.weights())
    other = small.evaluate(np.arange(IMAGES))
    for name in ("dice", "cb_dice", "image_iou"):
        assert other[name] == pytest.approx(scores[name], abs=1e-12)


def test_record_columns_add_up(make) -> None:
    record = make("tversky-bayesian").run_epoch(1)
    column = dict(zip(record.columns, record.values.T, strict=True))
    weighted = sum(column[f"weighted_{name}"] for name in ("cross_entropy", "iou", "dice"))
    assert column["total"] == pytest.approx(weighted + column["weighted_auxiliary"], rel=1e-5)
    assert column["weighted_auxiliary"] == pytest.approx(
        column["gamma"] * column["loss_auxiliary"], rel=1e-5
    )


def test_divergence_is_named(make) -> None:
    engine = make("fixed", training={"learning_rate": 1e30})
    found = engine.run_epoch(1).first_divergence()
    assert found is not None
    batch, loss = found
    assert batch == 2  # the first step ruins the weights, the second shows it
    assert loss == "cross_entropy"


def test_a_non_finite_loss_without_gradient_is_no_divergence() -> None:
    values = np.array([[1.0, np.inf, 2.0]])
    record = EpochRecord(("loss_dice", "loss_auxiliary", "total"), values, np.array([6]))
    assert record.first_divergence() is None


def test_parameters_reach_losses_and_fusion() -> None:
    study = Study.from_mapping(
        tiny(
            losses={"tversky": {"alpha": 0.6, "beta": 0.4}, "reduction": "image"},
            fusion={"smoothing": 0.8},
            auxiliary={"gamma0": 2.0},
        )
    )
    losses = build_losses(study.run_parameters("tversky-mad"))
    assert (losses.auxiliary, losses.reduction) == ("tversky", "image")
    fusion = build_fusion(study.run_parameters("tversky-mad_ema"), 0)
    assert (fusion.weighting, fusion.smoothing, fusion.gamma0) == ("mad", 0.8, 2.0)
    assert build_fusion(study.run_parameters("tversky-mad"), 0).smoothing is None
    alone = study.run_parameters("cross_entropy")
    assert build_losses(alone).base == ("cross_entropy",)
    assert build_fusion(alone, 0).names == ("cross_entropy",)


def test_precision_follows_the_hardware() -> None:
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")
    with pytest.raises(DmfError, match=r"training\.precision = 'tf32' needs a CUDA device"):
        resolve_precision("tf32", CPU)


def test_bf16_stays_close_to_fp32(make) -> None:
    """The exact network and losses: the loss within bf16's rounding, the gradients aligned."""
    engines = [make("cb_dice-variance", training={"precision": p}) for p in ("fp32", "bf16")]
    totals, gradients = [], []
    for engine in engines:
        engine._step(torch.arange(6))
        totals.append(engine._record[0, -1].item())
        trained = (p.grad for p in engine.network.parameters() if p.grad is not None)
        gradients.append(torch.cat([gradient.flatten() for gradient in trained]))
    assert totals[1] == pytest.approx(totals[0], rel=0.02)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


def test_losses_are_averaged_over_images_and_weights_over_steps() -> None:
    columns = ("loss_dice", "weight_dice", "total")
    record = EpochRecord(columns, np.array([[1.0, 0.2, 1.0], [4.0, 0.6, 4.0]]), np.array([6, 3]))
    assert record.means() == pytest.approx(
        {"loss_dice": 2, "weight_dice": 0.4, "total": 2, "batch_loss_dice": 2.5}
    )


def test_adam_and_sgd_are_torchs(make) -> None:
    """The optimiser classes, on the same gradients, give the same weights."""
    for training, build in (
        ({"learning_rate": 0.01}, lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-7)),
        (
            {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.01),
        ),
    ):
        engine = make("fixed", training=training)
        twins = {n: w.detach().clone() for n, w in engine.network.named_parameters()}
        oracle = build(list(twins.values()))
        for batch in (torch.arange(6), torch.arange(6, 12), torch.arange(12, 15)):
            engine._step(batch)
            for name, weight in engine.network.named_parameters():
                twins[name].grad = None if weight.grad is None else weight.grad.clone()
            oracle.step()
        for name, weight in engine.network.named_parameters():
            torch.testing.assert_close(weight.detach(), twins[name], msg=name)


def test_the_rate_is_that_of_the_schedule(make) -> None:
    """Steps of Adam at constant gradient sign are as long as the rate; here the rate is read."""
    engine = make("fixed", training={"epochs": 4, "schedule": {"kind": "linear", "epochs": 2}})
    rates: list[float] = []
    set_rate = engine.optimizer.set_rate
    engine.optimizer.set_rate = lambda rate: (rates.append(rate), set_rate(rate))
    before = engine.weights()
    for epoch in range(1, 5):
        engine.run_epoch(epoch)
    assert rates[:6] == [0.001] * 6
    assert np.diff(rates[6:]) == pytest.approx([-0.001 / 6] * 5)
    assert rates[-1] == pytest.approx(0.001 / 6)
    assert not same(before, engine.weights())

    still = make("fixed", training={"epochs": 4, "schedule": {"kind": "linear", "epochs": 2}})
    still.optimizer.set_rate = lambda rate: set_zero(0.0)
    set_zero = type(still.optimizer).set_rate.__get__(still.optimizer)
    weights = {n: w.detach().clone() for n, w in still.network.named_parameters()}
    still.run_epoch(1)
    assert same(weights, {n: w.detach() for n, w in still.network.named_parameters()})


def test_a_training_in_steps_ends_in_the_middle_of_an_epoch(make) -> None:
    engine = make("none-variance", training={"steps": 8})
    assert (engine.batches, engine.epochs) == (3, 3)
    records = [engine.run_epoch(epoch) for epoch in (1, 2, 3)]
    assert [record.images.tolist() for record in records] == [[6, 6, 3], [6, 6, 3], [6, 6]]
    whole = make("none-variance")
    assert np.array_equal(whole.run_epoch(1).values, records[0].values)
    assert engine.fusion.step == 8


def test_equal_batches_see_every_image_once(make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make("fixed", training={"batches": "equal", "batch_size": 7})
    seen: list[list[int]] = []
    step = engine._step
    monkeypatch.setattr(engine, "_step", lambda i, t: (seen.append(i.tolist()), step(i, t)))
    engine.run_epoch(1)
    assert [len(batch) for batch in seen] == [5, 5, 5]
    assert sorted(index for batch in seen for index in batch) == TRAIN.tolist()


def test_augmentation_turns_image_and_mask_alike(make) -> None:
    """What the losses see, taken back, is the plain batch: found by its image alone."""
    engine = make("fixed", training={"augmentation": "flips_and_turns"})
    seen: list[torch.Tensor] = []
    losses = engine.losses
    engine.losses = lambda logits, masks: (seen.append(masks), losses(logits, masks))[1]
    engine.run_epoch(1)
    drawn = protocol.symmetries(0, 1, len(TRAIN), engine.training)
    order = TRAIN[protocol.batch_order(0, 1, len(TRAIN))]
    for mask, symmetry, index in zip(torch.cat(seen), drawn, order, strict=True):
        turned = protocol.turned(engine.masks[index][None], torch.tensor([symmetry]))[0]
        assert torch.equal(mask, turned)


def test_a_network_without_skip_connections_sees_no_detail(make) -> None:
    engine = make("fixed", model={"skip_connections": False})
    assert engine.network.head.in_channels == 4
    assert engine.evaluate(TRAIN)["dice"] >= 0


def test_fixed_weights_are_those_asked_for(make) -> None:
    record = make("fixed", losses={"fixed_weights": [2, 1, 1]}).run_epoch(1)
    column = dict(zip(record.columns, record.values.T, strict=True))
    assert np.all(column["weight_cross_entropy"] == 0.5)
    assert np.all(column["weight_dice"] == 0.25)
    plain = make("none-variance", losses={"fixed_weights": [2, 1, 1]}).run_epoch(1)
    assert plain.values[0, 3] == pytest.approx(1 / 3)


def test_scores_are_those_that_dmf_predict_gives(make, tmp_path, monkeypatch) -> None:
    """In fp32, although the training is in bf16."""
    engine = make("cb_dice-variance", training={"precision": "bf16"})
    for epoch in range(1, 4):
        engine.run_epoch(epoch)
    network = UNet((4, 8), momentum=0.9)
    network.load_state_dict(engine.weights())
    network.eval()
    model = inference.Model(tmp_path, network, description=None)
    monkeypatch.setattr(inference, "read_model", lambda _: model)
    images = (engine.images[:, 0] * 255).round().to(torch.uint8).numpy()
    predicted = torch.from_numpy(inference.predict(tmp_path, images))
    counts = engine.confusion(np.arange(IMAGES)).counts
    assert torch.equal(counts[:, 1, 0], ((predicted == 1) & (engine.masks == 1)).sum((1, 2)))
    assert torch.equal(counts[:, 1, 1], ((predicted == 1) & (engine.masks == 0)).sum((1, 2)))


def test_recalibration_averages_over_the_training_images(make) -> None:
    """The first layer's statistics against plain averages, and everything back afterwards."""
    engine = make("fixed", training={"batch_size": 5})
    for epoch in range(1, 6):
        engine.run_epoch(epoch)
    before = engine.state()
    block = engine.network.down[0]
    order = TRAIN[protocol.batch_order(0, 0, len(TRAIN))]
    with torch.no_grad():
        outputs = [block[0](engine.images[part]) for part in np.split(order, 3)]
    mean = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    variance = torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0)
    with engine.recalibrated():
        torch.testing.assert_close(block[1].running_mean, mean)
        torch.testing.assert_close(block[1].running_var, variance)
        assert engine.evaluate(TRAIN)["dice"] > 0
    assert same(before, engine.state())
    assert block[1].momentum == pytest.approx(0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graph_replay_equals_eager_on_cuda(pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = Study.from_mapping(TINY).run_parameters("cb_dice-variance")
    device = torch.device("cuda")

    def engine() -> Engine:
        return Engine(parameters, *pictures, 2, TRAIN, seed=0, device=device, precision="fp32")

    captured = engine()
    monkeypatch.setattr(Engine, "_capture", lambda self: None)
    eager = engine()
    for epoch in range(1, 101):
        assert np.array_equal(captured.run_epoch(epoch).values, eager.run_epoch(epoch).values)
    assert same(captured.state(), eager.state())
