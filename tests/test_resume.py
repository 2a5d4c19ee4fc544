"""Which changes a run may go on with; the refusals themselves are tested on the command line (test_train.py)."""

import copy

import pytest

from errors import UserError
from imle.config import Config, Loss, Model, Train, to_dict
from imle.resume import check_same_run

DATA = {"fingerprint": "abc", "names": ["a.png"], "heldout": []}


def checkpoint() -> dict:
    return {"config": to_dict(Config()), "data": DATA, "step": 7}


def test_a_checkpoint_that_does_not_know_a_setting_was_trained_with_its_default():
    old = copy.deepcopy(checkpoint())
    del old["config"]["train"]["optimizer"], old["config"]["imle"]["pool_precision"]
    assert check_same_run(old, Config(), DATA) == []
    with pytest.raises(UserError, match="train.optimizer: this run began with 'adamw' and cannot go on with 'muon'"):
        check_same_run(old, Config(train=Train(optimizer="muon")), DATA)


def test_a_run_from_before_the_switches_goes_on_without_them():
    old = copy.deepcopy(checkpoint())
    for section, keys in (("model", ("mapping", "tokens", "token_dim", "token_cycles", "token_steps")),
                          ("loss", ("distance", "scale", "stage_weight"))):  # fmt: skip
        for key in keys:
            del old["config"][section][key]
    assert check_same_run(old, Config(), DATA) == []
    for changed, told in ((Config(model=Model(mapping="tokens")), "model.mapping: this run began with 'mlp'"),
                          (Config(loss=Loss(distance="charbonnier")), "loss.distance: this run began with 'squared'"),
                          (Config(loss=Loss(stage_weight=0.5)), "loss.stage_weight: this run began with 0.0")):  # fmt: skip
        with pytest.raises(UserError, match=told):
            check_same_run(old, changed, DATA)


def test_a_change_of_speed_alone_is_not_mentioned():
    assert check_same_run(checkpoint(), Config(train=Train(micro_batch=2, compile=True)), DATA) == []
    assert check_same_run(checkpoint(), Config(train=Train(learning_rate=0.5)), DATA) == ["train.learning_rate: 0.002 -> 0.5 from step 7"]
