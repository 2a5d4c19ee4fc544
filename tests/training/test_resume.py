"""Which changes a run may go on with; the refusals themselves are tested on the command line (test_train.py)."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import methods
from data import Record
from errors import UserError
from imle.settings import Config, Loss
from methods import from_dict
from training.resume import check_same_run, nothing_to_do
from training.settings import Train, facts, to_dict
from training.trainer import Trainer

DATA = Record("abc", ["a.png"], [])


def checkpoint() -> dict:
    return {"config": to_dict(Config()), "data": DATA._asdict(), "step": 7}


def test_a_checkpoint_that_does_not_know_a_setting_was_trained_with_its_default():
    old = copy.deepcopy(checkpoint())
    del old["config"]["train"]["optimizer"], old["config"]["train"]["precision"]
    assert check_same_run(old, Config(), DATA) == []
    with pytest.raises(UserError, match="train.optimizer: this run began with 'adamw' and cannot continue with 'muon'"):
        check_same_run(old, Config(train=Train(optimizer="muon")), DATA)


def test_a_run_from_before_the_switches_goes_on_without_them():
    old = copy.deepcopy(checkpoint())
    del old["config"]["loss"]["stage_weight"]
    assert check_same_run(old, Config(), DATA) == []
    for changed, told in ((Config(loss=Loss(stage_weight=0.5)), "loss.stage_weight: this run began with 0.0"),):
        with pytest.raises(UserError, match=told):
            check_same_run(old, changed, DATA)


def test_a_change_of_speed_alone_is_not_mentioned():
    assert check_same_run(checkpoint(), Config(train=Train(micro_batch=2, compile=True)), DATA) == []
    old = checkpoint()
    old["config"]["train"]["cuda_graph"] = False  # its default once
    assert Config().train.cuda_graph and check_same_run(old, Config(), DATA) == []
    assert check_same_run(checkpoint(), Config(train=Train(learning_rate=0.5)), DATA) == ["train.learning_rate: 0.002 -> 0.5 from step 7"]


# --- counters, states and schedules in units that a setting defines


@pytest.mark.parametrize("size", [1, 5, 11, 1000])
def test_another_batch_size_is_refused_with_what_helps(size):
    with pytest.raises(UserError) as told:
        check_same_run(checkpoint(), Config(train=Train(batch_size=size)), DATA)
    assert str(told.value) == (
        f"train.batch_size: this run began with 10 and cannot continue with {size}; change it back "
        "(train.micro_batch saves memory and gives the same result) or choose another --run"
    )


FREE = {  # every setting that may change on the way, and why that is right; tests below
    "imle": {
        "refresh_epochs": "counted from step 0",
        "search": "of the next pool",
        "reject": "of the next pool",
        "epsilon": "of the next pool",
        "rejected_fraction": "of the next pool",
        "perturbation": "of the next step",
        "adaptive_decay": "of the next match, which is told",
        "staleness": "ages are in epochs",
        "force_resample": "ages are in epochs",
    },
    "train": {
        "epochs": "the schedule is that of a run with so many, which is told",
        "minutes": "its epochs are then in proportion, which is told",
        "learning_rate": "of the next step",
        "weight_decay": "of the next step",
        "clip": "usual norms are gradients' and not clipping's",
        "precision": "of the next step",
        "warmup_steps": "as the schedule",
        "schedule": "as the schedule",
        "decay_epochs": "as the schedule",
        "decay_factor": "as the schedule",
        "ema_decay": "of the next step",
    },
    "log": {"sheet_epochs": "counted from step 0", "num_scored": "the score is unbiased"},
}


def test_every_setting_is_fixed_or_silent_or_known_to_be_free_to_change():
    free = {key for key, _, known in facts(Config) if not known.fixed and not known.silent}
    assert free == {f"{section}.{name}" for section, names in FREE.items() for name in names}


OTHER = {
    "imle": {
        "refresh_epochs": 7,
        "search": "dci",
        "reject": "quantile",
        "epsilon": 1.0,
        "rejected_fraction": 0.5,
        "perturbation": 0.1,
        "adaptive_decay": 0.5,
        "staleness": 2,
        "force_resample": 9,
    },
    "train": {
        "epochs": 33,
        "minutes": 2.5,
        "learning_rate": 0.1,
        "weight_decay": 0.3,
        "clip": 3.0,
        "precision": "bf16",
        "warmup_steps": 44,
        "schedule": "step",
        "decay_epochs": 2,
        "decay_factor": 0.125,
        "ema_decay": 0.5,
    },
    "log": {"sheet_epochs": 3, "num_scored": 9},
}


@pytest.mark.parametrize("section, name", [(section, name) for section, names in FREE.items() for name in names])
def test_what_may_change_is_told(section, name):
    values = to_dict(Config())
    old, value = values[section][name], OTHER[section][name]
    values[section][name] = value
    (line,) = check_same_run(checkpoint(), from_dict(values), DATA)
    assert line.startswith(f"{section}.{name}: {old} -> {value} from step 7")
    effect = {"imle.adaptive_decay": ", for each image from its next match on"}
    rate = "; from now on the learning rate is that of a run with this value from the start"
    scheduled = name in ("epochs", "warmup_steps", "schedule")  # the default is cosine, of which decay_epochs and decay_factor are no part
    assert line.endswith("from step 7" + effect.get(f"{section}.{name}", rate if scheduled else ""))


def trainer(**sections):
    """Return a trainer on eight images of noise, two steps to an epoch."""
    small = {
        "data": {"resolution": 16},
        "loss": {"perceptual": "pixels"},
        "log": {"num_scored": 4},
        "model": {"latent_dim": 8, "style_dim": 16, "mapping_layers": 1, "channels": [16, 16, 8], "blocks": [1, 1, 1]},
        "train": {"epochs": 20, "batch_size": 4, "warmup_steps": 3},
        "imle": {"pool_factor": 4, "refresh_epochs": 2},
    }
    config = from_dict({name: small.get(name, {}) | sections.get(name, {}) for name in small | sections})
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")
    made = Trainer(config, methods.make(config, images, device=cpu), len(images), data=DATA._asdict(), device=cpu)
    made.write_to(SimpleNamespace(row=lambda *_: None, position=lambda: 0))
    return made


def train(made, steps):
    for _ in range(steps):
        made.advance()
    return made


def resumed(state, **sections):
    """Return a trainer under these settings that goes on from what another had."""
    made = trainer(**sections)
    check_same_run(state, made.config, DATA)
    made.load_state(copy.deepcopy(state))
    return made


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_optimiser_takes_over_its_state_and_no_setting(optimizer):
    state = train(trainer(train={"optimizer": optimizer}), 4).state()
    later, fresh = (
        made(train={"optimizer": optimizer, "weight_decay": 0.3, "learning_rate": 0.1})
        for made in (lambda **sections: resumed(state, **sections), trainer)
    )
    for ours, theirs in zip(later.method.learner.optimizer.param_groups, fresh.method.learner.optimizer.param_groups, strict=True):
        assert ours.keys() == theirs.keys() and all(ours[name] == theirs[name] for name in ours if name not in ("params", "lr"))
        assert ours["weight_decay"] == 0.3
    with pytest.raises(UserError, match=r"train.betas: this run began with \[0.9, 0.99\] and cannot continue"):
        resumed(state, train={"optimizer": optimizer, "betas": [0.5, 0.9]})


def test_the_learning_rate_is_that_of_a_run_that_had_its_settings_from_the_start():
    state = train(trainer(), 5).state()
    for settings in ({"epochs": 40}, {"epochs": 3}, {"warmup_steps": 50}, {"schedule": "step", "decay_epochs": 1}, {"learning_rate": 0.1}):
        later, ever = resumed(state, train=settings), trainer(train=settings)
        assert [later.method.learner.learning_rate(step) for step in range(5, 12)] == [
            ever.method.learner.learning_rate(step) for step in range(5, 12)
        ]


def test_epochs_are_counted_from_the_start_whatever_their_interval_was():
    state = train(trainer(), 5).state()  # two and a half epochs
    later = resumed(state, imle={"refresh_epochs": 3})
    assert [step for step in range(5, 20) if later.method.objective.asking(step, later.method.losses) is not None] == [6, 12, 18]
    adaptive = {"match": "adaptive", "reject": "none", "staleness": 50, "force_resample": 50}
    state = train(trainer(imle=adaptive), 5).state()
    assert state["method"]["objective"]["age"].tolist() == [2] * 8  # epochs
    for settings, asks in (({}, False), ({"staleness": 3, "force_resample": 4}, True), ({"staleness": 0, "force_resample": 3}, True)):
        later = resumed(state, imle=adaptive | settings)
        later.method.objective.tau[:] = later.method.losses + 1  # all are near enough
        assert (later.method.objective.asking(6, later.method.losses) is not None) == asks


def test_usual_norms_are_forgotten_by_a_session_that_does_not_clip():
    clipped = train(trainer(train={"clip": 2.0}), 4)
    assert torch.equal(resumed(clipped.state(), train={"clip": 5.0}).method.learner.clipping.usual, clipped.method.learner.clipping.usual)
    unclipped = train(resumed(clipped.state()), 2).state()
    again = resumed(unclipped, train={"clip": 2.0})
    assert not again.method.learner.clipping.usual.any() and train(again, 1).method.learner.clipping.usual.all()


@pytest.mark.parametrize(
    "step, before, asked, told",
    [
        (40, 20, 20, "run is finished, at step 40; a train.epochs above 20 continues it"),
        (40, 10, 20, "run is finished, at step 40; a train.epochs above 20 continues it"),
        (20, 20, 10, "run is at epoch 10 of 20, and train.epochs=10 asks for no more; a larger number continues it"),
        (40, 20, 1, "run is at epoch 20 of 20, and train.epochs=1 asks for no more; a larger number continues it"),
        (21, 20, 10, "run is at epoch 10.5 of 20, and train.epochs=10 asks for no more; a larger number continues it"),
    ],
)
def test_finished_is_said_of_all_epochs_that_were_ever_asked_for(step, before, asked, told):
    state = {"step": step, "config": {"train": {"epochs": before}}}
    assert nothing_to_do(Path("run"), state, Train(epochs=asked), 2) == told
