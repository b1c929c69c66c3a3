"""Orders, sizes, symmetries and rates: what follows from seed and step alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.errors import DmfError
from dmf.settings import Training
from dmf.study import Study
from dmf.training import protocol

from conftest import tiny


@given(seed=st.integers(0, 1000), epoch=st.integers(1, 1000), images=st.integers(1, 50))
@settings(deadline=None)
def test_a_batch_order_is_a_permutation(seed: int, epoch: int, images: int) -> None:
    assert sorted(protocol.batch_order(seed, epoch, images)) == list(range(images))


def test_orders_and_symmetries_do_not_change_between_versions() -> None:
    assert protocol.batch_order(0, 1, 8).tolist() == [1, 3, 7, 6, 0, 4, 2, 5]
    training = Training(augmentation="flips_and_turns")
    assert protocol.symmetries(0, 1, 8, training).tolist() == [5, 6, 6, 2, 7, 1, 3, 7]


@given(images=st.integers(1, 500), size=st.integers(1, 64))
def test_batches_hold_every_image_once(images: int, size: int) -> None:
    short = protocol.batch_lengths(images, Training(batch_size=size))
    equal = protocol.batch_lengths(images, Training(batch_size=size, batches="equal"))
    assert sum(short) == sum(equal) == images
    assert len(short) == len(equal)  # as many steps
    assert max(short) <= size
    assert set(short[:-1]) <= {size}
    assert max(equal) - min(equal) <= 1
    assert max(equal) <= size


def test_the_papers_batches() -> None:
    assert protocol.batch_lengths(453, Training()) == [32] * 14 + [5]
    equal = protocol.batch_lengths(453, Training(batches="equal"))
    assert sorted(set(equal)) == [30, 31]


def test_schedules() -> None:
    """At the paper's size: 15 batches an epoch, 1,500 steps."""
    rates = [protocol.learning_rate(step, 1500, 15, Training()) for step in (0, 1499)]
    assert rates == [0.001, 0.001]
    linear = Training(schedule={"kind": "linear", "epochs": 30})
    at = {s: protocol.learning_rate(s, 1500, 15, linear) for s in (0, 1049, 1050, 1275, 1499)}
    assert at == pytest.approx({0: 1e-3, 1049: 1e-3, 1050: 1e-3, 1275: 5e-4, 1499: 1e-3 / 450})
    power = Training(schedule={"kind": "polynomial", "power": 0.9})
    assert protocol.learning_rate(750, 1500, 15, power) == pytest.approx(1e-3 * 0.5**0.9)


@given(symmetry=st.integers(0, 7))
def test_symmetries_are_those_of_the_square(symmetry: int) -> None:
    picture = torch.arange(9).view(1, 3, 3)
    turned = protocol.turned(picture, torch.tensor([symmetry]))[0].numpy()
    square = picture[0].numpy()
    group = [np.rot90(side, k) for side in (square, square.T) for k in range(4)]
    assert sum(np.array_equal(turned, member) for member in group) == 1


def test_every_symmetry_is_drawn_about_equally_often() -> None:
    for augmentation, kinds in (("flips", 4), ("flips_and_turns", 8)):
        drawn = protocol.symmetries(3, 2, 8000, Training(augmentation=augmentation))
        counts = np.bincount(drawn, minlength=kinds)
        assert len(counts) == kinds
        assert counts.min() > 0.85 * 8000 / kinds
    assert protocol.symmetries(3, 2, 10, Training()) is None


def test_pictures_of_a_batch_are_turned_each_by_its_own() -> None:
    pictures = torch.rand(8, 1, 4, 4)
    together = protocol.turned(pictures, torch.arange(8))
    for index in range(8):
        alone = protocol.turned(pictures[index : index + 1], torch.tensor([index]))
        assert torch.equal(together[index], alone[0])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"weight_decay": 0.1}}, "momentum and weight_decay are those of sgd"),
        ({"training": {"momentum": 0.5}}, "set optimizer: sgd"),
        ({"training": {"schedule": {"kind": "linear", "epochs": 4}}}, r"schedule\.epochs \(4\)"),
        ({"training": {"augmentation": "flip"}}, r"training\.augmentation = 'flip'"),
        ({"training": {"steps": 0}}, r"training\.steps = 0"),
        ({"losses": {"fixed_weights": [1, 1]}}, "must be 3 numbers, one for each of base"),
        ({"losses": {"fixed_weights": [0, 0, 0]}}, "not all 0"),
        ({"losses": {"fixed_weights": [-1, 1, 1]}}, "fixed_weights"),
        ({"execution": {"checkpoint_epochs": 3}}, "Did you mean 'checkpoint_seconds'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(sections, message: str) -> None:
    with pytest.raises(DmfError, match=message):
        Study.from_mapping(tiny(**sections))
