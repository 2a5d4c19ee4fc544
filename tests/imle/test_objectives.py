"""Who takes a new match, and when: IMLE and RS-IMLE by the calendar, Adaptive IMLE by scripted losses."""

import copy

import torch

from imle.objectives import OBJECTIVES, Adaptive
from imle.settings import Imle

N, STEPS = 4, 3  # images; steps an epoch
FAR = torch.full((N,), 100.0)


class Run:
    """Drive an objective through epochs of scripted losses; a pool's offers tell its number and the image."""

    def __init__(self, **settings):
        self.objective = Adaptive(Imle(match="adaptive", **settings), N, STEPS)
        self.latents = torch.full((N, 2), float("nan"))
        self.epochs, self.pools = 0, 0

    def epoch(self, losses=FAR) -> list[int]:
        """Go through the steps of one epoch; return the images that took a new match before it."""
        asking = self.objective.asking(self.epochs * STEPS, torch.as_tensor(losses))
        for step in range(1, STEPS):
            assert self.objective.asking(self.epochs * STEPS + step, torch.zeros(N)) is None
        self.epochs += 1
        if asking is None:
            return []
        offers = None
        if self.objective.needs_pool(asking):
            self.pools += 1
            offers = torch.stack([torch.full((N,), float(self.pools)), torch.arange(float(N))], dim=1)
        self.latents[asking] = self.objective.take(asking, offers)
        assert self.latents.isfinite().all(), "an image has no latent"
        assert torch.equal(self.latents[:, 1], torch.arange(float(N))), "an image has another's latent"
        return asking.nonzero()[:, 0].tolist()

    @property
    def pool_of(self) -> list[int]:
        return self.latents[:, 0].int().tolist()


def test_everyone_is_matched_every_so_many_epochs():
    objective = OBJECTIVES["every"](Imle(match="every", refresh_epochs=5), N, STEPS)
    asked = {step: objective.asking(step, torch.zeros(N)) for step in range(31)}
    assert [step for step, asking in asked.items() if asking is not None] == [0, 15, 30]
    assert asked[0].all() and objective.needs_pool(asked[0])
    offers = torch.rand(N, 2)
    assert torch.equal(objective.take(asked[0], offers), offers)
    assert objective.state_dict() == {}


def test_first_everyone_takes_a_real_match_and_no_threshold_holds_until_the_second():
    run = Run(staleness=3, force_resample=50)
    assert run.epoch(torch.zeros(N)) == [0, 1, 2, 3] and run.pools == 1
    assert run.epoch() == run.epoch() == []  # younger than `staleness`
    assert run.objective.tau.isinf().all()
    assert run.epoch() == [0, 1, 2, 3] and run.pools == 2  # any loss is below infinity
    assert run.objective.tau.isinf().all()
    run.epoch()
    assert run.objective.tau.isfinite().all()


def test_the_threshold_is_the_first_loss_after_a_second_match_times_the_decay():
    run = Run(staleness=2, force_resample=50, adaptive_decay=0.9)
    run.epoch(), run.epoch(), run.epoch()  # matched anew before the third
    losses = torch.tensor([10.0, 20.0, 30.0, 40.0])
    assert run.epoch(losses) == []
    torch.testing.assert_close(run.objective.tau, 0.9 * losses)
    assert run.epoch([9.5, 18.5, 26.0, 36.5]) == [2]
    assert run.epoch([1.0, 18.5, 5.0, 36.5]) == [0]  # image 2 is too young, and has a new threshold
    torch.testing.assert_close(run.objective.tau, torch.tensor([9.0, 18.0, 4.5, 36.0]))


def test_no_match_is_given_up_before_staleness_or_kept_beyond_force_resample():
    run = Run(staleness=3, force_resample=6, adaptive_decay=0.5)
    for _ in range(4):
        run.epoch()
    asked = [run.epoch(FAR if epoch < 2 else [0.0, 100.0, 100.0, 100.0]) for epoch in range(6)]
    assert asked == [[], [], [0], [], [], [1, 2, 3]]  # the ages of the matches are 1 to 6 here


def test_a_pool_serves_every_image_once():
    run = Run(staleness=1, force_resample=100, adaptive_decay=0.5)
    run.epoch()
    run.epoch()
    assert run.pools == 2
    run.epoch()  # sets tau to 50
    assert run.epoch([1.0, 100, 100, 100]) == [0]
    assert run.pools == 3 and run.pool_of == [3, 2, 2, 2]  # all had used the second
    assert run.epoch([100.0, 1, 100, 100]) == [1]
    assert run.epoch([100.0, 100, 1, 100]) == [2]
    assert run.pools == 3 and run.pool_of == [3, 3, 3, 2]  # the third has not been used by images 1 and 2
    assert run.epoch([1.0, 100, 100, 1]) == [0, 3]
    assert run.pools == 4 and run.pool_of == [4, 3, 3, 4]  # image 0 had
    assert run.epoch([100.0, 0.1, 100, 100]) == [1]
    assert run.pools == 4 and run.pool_of == [4, 4, 3, 4]


def test_adaptive_state_round_trips_at_every_epoch():
    losses = 100 * torch.rand(30, N, generator=torch.Generator().manual_seed(0))
    straight = Run(staleness=1, force_resample=5)
    expected = [(straight.epoch(row), straight.pool_of) for row in losses]
    assert 3 < straight.pools < 25
    resumed = Run(staleness=1, force_resample=5)
    for row, (asked, pool_of) in zip(losses, expected):
        state = copy.deepcopy(resumed.objective.state_dict())
        resumed.objective = Adaptive(resumed.objective.config, N, STEPS)
        resumed.objective.load_state_dict(state)
        assert resumed.epoch(row) == asked and resumed.pool_of == pool_of
