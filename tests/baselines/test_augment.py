"""DiffAugment: each change against what it means, and its gradient."""

import pytest
import torch
from torch import Tensor

from baselines import augment as module
from baselines.augment import CHANGES, augment, colour, cutout, translation


def images(count: int = 64, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def with_numbers(monkeypatch, *numbers: float) -> None:
    """Let the random numbers of `colour` be these: the change of brightness, the factors of saturation and of contrast."""
    drawn = iter(numbers)
    monkeypatch.setattr(module, "_uniform", lambda images, low, high: torch.full((len(images), 1, 1, 1), next(drawn)))


def test_colour_changes_brightness_saturation_and_contrast(monkeypatch):
    before = images(2)
    with_numbers(monkeypatch, 0.25, 1.0, 1.0)
    torch.testing.assert_close(colour(before), before + 0.25)
    with_numbers(monkeypatch, 0.0, 0.0, 1.0)
    torch.testing.assert_close(colour(before), before.mean(dim=1, keepdim=True).expand_as(before))  # no saturation: grey
    with_numbers(monkeypatch, 0.0, 1.0, 0.5)
    mean = before.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(colour(before), (before + mean) / 2)


def test_colour_stays_within_its_bounds_and_differs_between_images():
    grey = torch.full((2000, 3, 2, 2), 0.1)
    brightness = colour(grey)[:, 0, 0, 0] - 0.1  # saturation and contrast change no flat grey
    assert -0.5 <= brightness.min() < -0.49 and 0.49 < brightness.max() <= 0.5
    assert len(brightness.unique()) > 1900


def test_translation_shifts_by_whole_pixels_and_fills_with_zeros():
    before, seen = images(400), set()
    for one, moved in zip(before, translation(before)):
        rows, columns = (moved.abs().sum(dim=(0, 3 - dim)) > 0 for dim in (1, 2))
        found = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-3, 4)
            if rows.sum() == 16 - abs(y) and columns.sum() == 24 - abs(x) and torch.equal(moved, shifted(one, y, x))
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 5 * 7  # every shift of up to an eighth of a side


def shifted(image: Tensor, y: int, x: int) -> Tensor:
    """Return what stands y pixels below and x pixels to the right of each place, 0 outside; one pixel at a time."""
    moved, (height, width) = torch.zeros_like(image), image.shape[1:]
    for row in range(height):
        for column in range(width):
            if 0 <= row + y < height and 0 <= column + x < width:
                moved[:, row, column] = image[:, row + y, column + x]
    return moved


def test_cutout_erases_one_rectangle_of_half_the_sides_which_may_lie_partly_outside():
    before = torch.ones(500, 3, 16, 24)
    erased = cutout(before) == 0
    rows, columns = (erased.any(dim=dims).sum(dim=1) for dims in ((1, 3), (1, 2)))
    assert torch.equal(erased.sum(dim=(1, 2, 3)), 3 * rows * columns)  # a rectangle, in all colours
    assert set(rows.tolist()) == set(range(4, 9)) and set(columns.tolist()) == set(range(6, 13))


@pytest.mark.parametrize("name", CHANGES)
def test_gradients_pass_and_a_fixed_seed_gives_the_same_images(name):
    x = images(3).double().requires_grad_()

    def changed(x: Tensor) -> Tensor:
        torch.manual_seed(7)
        return CHANGES[name](x)

    assert torch.equal(changed(x), changed(x)) and changed(x).shape == x.shape
    assert torch.autograd.gradcheck(changed, images(2, 4, 4).double().requires_grad_())


def test_changes_come_in_the_order_of_their_names():
    before = images(4)
    torch.manual_seed(1)
    expected = translation(colour(before))
    torch.manual_seed(1)
    assert torch.equal(augment(before, ["colour", "translation"]), expected)
    assert augment(before, []) is before
