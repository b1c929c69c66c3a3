"""The training step: its network, its determinism, its state."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.data import phantom
from dmf.errors import DmfError
from dmf.study import Study
from dmf.training.engine import (
    Engine,
    EpochRecord,
    batch_order,
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
    biases = [block[0].bias.requires_grad_() for block in (*network.down, *network.up)]
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


@given(seed=st.integers(0, 1000), epoch=st.integers(1, 1000), images=st.integers(1, 50))
@settings(deadline=None)
def test_a_batch_order_is_a_permutation(seed: int, epoch: int, images: int) -> None:
    assert sorted(batch_order(seed, epoch, images)) == list(range(images))


def test_batch_orders_do_not_change_between_versions() -> None:
    assert batch_order(0, 1, 8).tolist() == [1, 3, 7, 6, 0, 4, 2, 5]


def test_the_short_last_batch_is_kept(make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make("fixed")
    seen: list[list[int]] = []
    step = engine._step
    monkeypatch.setattr(engine, "_step", lambda i: (seen.append(i.tolist()), step(i)))
    record = engine.run_epoch(1)
    assert [len(batch) for batch in seen] == [6, 6, 3]
    assert sorted(index for batch in seen for index in batch) == TRAIN.tolist()
    assert record.values.shape == (3, len(record.columns))


@pytest.mark.parametrize(
    "name",
    ["fixed", "none-variance", "focal-mad", "cb_dice-bayesian", "none-random", "none-softadapt",
     "tversky-cov", "cb_dice-variance_ema"],
)  # fmt: skip
def test_a_run_continues_from_any_batch_to_the_same_bits(make, name: str) -> None:
    """The state is taken in the middle of epoch 2 and put into a fresh engine."""
    straight = make(name)
    expected = [straight.run_epoch(epoch).values for epoch in (1, 2, 3)]

    broken = make(name)
    broken.run_epoch(1)
    asked = iter([False, False, True])
    assert broken.run_epoch(2, lambda: next(asked)) is None
    assert broken.position == 2
    resumed = make(name)
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
    record = EpochRecord(("loss_dice", "loss_auxiliary", "total"), values)
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
