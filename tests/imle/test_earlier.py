"""Settings of earlier revisions: old runs are read, sampled and gone on with, and what is gone is told."""

import copy
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from test_golden import assert_golden, never_stopped, results, words  # noqa: F401

import methods
import train
from errors import UserError
from imle.earlier import GONE, upgraded
from imle.settings import Config
from methods import from_dict, load_config, open_sampler
from training import checkpoint
from training.settings import to_dict

OLD_RUNS = Path(__file__).parent / "old_runs"  # as the revision before these names left them after step 7, and where they would have gone


@pytest.fixture
def old_run(request, tmp_path):
    return shutil.copytree(OLD_RUNS / request.param, tmp_path / request.param)


each_run = pytest.mark.parametrize("old_run", ["rs", "adaptive"], indirect=True)
SMALL = ["model.channels=[8,8,8,8]", "model.style_dim=8", "model.latent_dim=8", "loss.perceptual=pixels", "train.schedule=constant"]
SETTINGS = {
    "rs": [*SMALL, "imle.match=every", "imle.reject=quantile", "imle.refresh_epochs=2"],
    "adaptive": [*SMALL, "imle.match=adaptive", "imle.reject=none", "imle.staleness=1", "imle.force_resample=2"],
}


@each_run
def test_an_old_run_goes_on_to_the_end_that_it_would_have_had(old_run, never_stopped, capsys):  # noqa: F811
    train.main(words(SETTINGS[old_run.name], old_run))
    said = capsys.readouterr().out
    assert "going on from step 7 of 12" in said and said.count("from step") == 1  # no setting has changed
    assert_golden(results(old_run), json.loads((old_run / "expected.json").read_text()))


@each_run
def test_an_old_run_is_sampled_and_exported(old_run):
    sampler = open_sampler(old_run)
    assert sampler.images([0, 1]).shape == (2, 3, 32, 32)
    whole = to_dict(from_dict(sampler.config))
    assert whole == _merged(whole, sampler.config | {"log": whole["log"]})  # nothing but settings of today
    assert whole["log"] == {"sheet_epochs": 100, "checkpoint_minutes": 5.0, "num_scored": 8}
    sampler.export(old_run / "export.pt")
    assert torch.equal(open_sampler(old_run / "export.pt").images([5]), sampler.images([5]))


def _merged(under: dict, over: dict) -> dict:
    """Return `under` with the values of `over`, section by section."""
    return under | {key: _merged(under[key], value) if isinstance(value, dict) else value for key, value in over.items()}


OTHER = {
    "model.bottleneck": 0.5,
    "model.mapping": "tokens",
    "loss.distance": "charbonnier",
    "imle.epsilon_ema": 0.25,
    "imle.reject_after": 3,
    "imle.reject_below": 0.5,
    "imle.top_up": 1.0,
    "imle.pool_precision": "bf16",
}


@pytest.mark.parametrize("key", GONE)
@pytest.mark.parametrize("old_run", ["rs"], indirect=True)
def test_a_checkpoint_that_used_what_is_gone_is_told_so(key, old_run):
    path = old_run / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    section, name = key.split(".")
    state["config"][section][name] = OTHER[key]
    torch.save(state, path)
    with pytest.raises(UserError) as told:
        open_sampler(old_run)
    assert str(told.value).startswith(f"{path}: {key}={OTHER[key]}: this setting was removed, and every run now has {GONE[key]}")


@pytest.mark.parametrize(
    "old, today",
    [
        ({"objective": "imle", "epsilon_mode": "fixed"}, {"match": "every", "reject": "none"}),
        ({"objective": "adaptive", "epsilon_mode": "rejected_fraction"}, {"match": "adaptive", "reject": "none"}),
        ({"objective": "rs", "epsilon_mode": "rejected_fraction"}, {"match": "every", "reject": "share"}),
        *(
            ({"objective": "rs", "epsilon_mode": mode}, {"match": "every", "reject": mode})
            for mode in ("fixed", "quantile", "rank", "median_rank")
        ),
        ({"objective": "rs", "epsilon_mode": "rank", "search": "faiss"}, {"match": "every", "reject": "rank", "search": "exact"}),
        ({"objective": "rs", "epsilon_mode": "fixed", "search": "dci"}, {"match": "every", "reject": "fixed", "search": "dci"}),
    ],
)
def test_what_was_an_objective_and_an_epsilon_mode(old, today, tmp_path):
    assert upgraded({"config": {"imle": old}, "ema": {}}) == {"config": {"method": "imle", "imle": today}, "sampled": {}}
    lines = (OLD_RUNS / "rs" / "config.yaml").read_text().splitlines(keepends=True)
    changed = [f"  {name}: {old[name]}\n" if (name := line.split(":")[0].strip()) in old else line for line in lines]
    (tmp_path / "config.yaml").write_text("".join(changed))
    config = load_config(tmp_path / "config.yaml")  # which is a valid --config
    assert {name: getattr(config.imle, name) for name in today} == today
    assert load_config(tmp_path / "config.yaml", ["imle.reject=rank", "imle.search=exact"]).imle.reject == "rank"


@pytest.mark.parametrize(
    "words_, told",
    [
        (["imle.objective=imle"], "imle.objective: now called imle.match and imle.reject; write imle.match=every imle.reject=none"),
        (["imle.objective=rs"], "write imle.match=every imle.reject=share"),
        (["imle.objective=adaptive"], "write imle.match=adaptive imle.reject=none"),
        (
            ["imle.epsilon_mode=quantile"],
            "imle.epsilon_mode: now called imle.match and imle.reject; write imle.match=every imle.reject=quantile",
        ),
        (["imle.objective=rs", "imle.epsilon_mode=fixed"], "imle.epsilon_mode and imle.objective: now called"),
        (["imle.objective=imle", "imle.top_up=4"], "write imle.match=every imle.reject=none"),
    ],
)
def test_an_old_name_that_a_user_writes_is_told_with_the_new_one(words_, told, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("imle:\n" + "".join(f"  {word.split('.', 1)[1].replace('=', ': ')}\n" for word in words_))
    for given in ((path,), (None, words_)):
        with pytest.raises(UserError) as caught:
            load_config(*given)
        assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("old_run", ["rs"], indirect=True)
def test_epochs_between_checkpoints_became_minutes(old_run, tmp_path):
    """A run's config.yaml, which has all settings, goes on loading; a user who writes the old name is told the new one."""
    assert "checkpoint_epochs: 1\n" in (old_run / "config.yaml").read_text()
    assert load_config(old_run / "config.yaml").log.checkpoint_minutes == 5.0
    assert load_config(old_run / "config.yaml", ["log.checkpoint_minutes=2"]).log.checkpoint_minutes == 2.0
    path = tmp_path / "mine.yaml"
    path.write_text("log:\n  sheet_epochs: 100\n  checkpoint_epochs: 25\n")
    for given in ((path,), (None, ["log.checkpoint_epochs=25"])):
        with pytest.raises(
            UserError, match="^log.checkpoint_epochs: now called log.checkpoint_minutes, .*; write log.checkpoint_minutes=5"
        ):
            load_config(*given)
    with pytest.raises(UserError, match="log.checkpoint_epoch: no such setting"):
        load_config(None, ["log.checkpoint_epoch=25"])


def test_a_best_that_was_chosen_on_held_out_images_is_chosen_anew():
    old = torch.load(OLD_RUNS / "rs" / "checkpoints" / "last.pt", weights_only=True) | {"best": 0.5}
    assert upgraded(old)["best"] == 0.5
    old["data"]["heldout"] = ["a.png"]
    assert upgraded(old)["best"] == 0.5  # a single one had no say
    old["data"]["heldout"] = ["a.png", "b.png"]
    assert upgraded(old)["best"] == math.inf
    old["config"] = to_dict(Config())  # later checkpoints of format 1 have today's names
    assert upgraded(old)["best"] == 0.5


def test_upgrading_leaves_what_it_was_given():
    state = torch.load(OLD_RUNS / "rs" / "checkpoints" / "last.pt", weights_only=True)
    before = copy.deepcopy(state["config"])
    assert upgraded(state)["config"] != before == state["config"]


@pytest.mark.parametrize("key", GONE)
def test_what_a_user_writes_of_what_is_gone(key, tmp_path):
    section, name = key.split(".")
    path = tmp_path / "mine.yaml"
    harmless = "fp32" if name == "pool_precision" else GONE[key]
    path.write_text(f"{section}:\n  {name}: {harmless}\n")
    assert load_config(path) == load_config(None, [f"{key}={harmless}"]) == Config()
    path.write_text(f"{section}:\n  {name}: {OTHER[key]}\n")
    for given in ((path,), (None, [f"{key}={OTHER[key]}"])):
        with pytest.raises(UserError) as told:
            load_config(*given)
        assert str(told.value) == (
            f"{key}={OTHER[key]}: this setting was removed, and every run now has {GONE[key]}; "
            "leave it out, or use the revision that had it"
        )
    with pytest.raises(UserError, match="nonsense: this setting was removed"):
        load_config(None, [f"{key}=nonsense"])


def test_the_pool_s_precision_may_have_been_that_of_the_steps():
    for words_ in (["imle.pool_precision=bf16", "train.precision=bf16"], ["train.precision=bf16", "imle.pool_precision=fp32"]):
        assert load_config(None, words_).train.precision == "bf16"


SIZES = {"tokens": 16, "token_dim": 64, "token_cycles": 2, "token_steps": 1}  # of the token mapper, which nothing had by default


def test_sizes_of_the_token_mapper_beside_the_mlp_change_nothing(tmp_path):
    path = tmp_path / "mine.yaml"
    for given in (SIZES, SIZES | {"mapping": "mlp"}):
        path.write_text("model:\n" + "".join(f"  {name}: {value}\n" for name, value in given.items()))
        assert load_config(path) == load_config(None, [f"model.{name}={value}" for name, value in given.items()]) == Config()
    path.write_text(path.read_text().replace("mlp", "tokens"))
    with pytest.raises(UserError, match="^model.mapping=tokens: this setting was removed, and every run now has mlp"):
        load_config(path)


@pytest.mark.parametrize("old_run", ["rs"], indirect=True)
def test_a_checkpoint_with_the_new_names_may_have_had_the_token_mapper(old_run):
    path = old_run / "checkpoints" / "last.pt"
    state, images = checkpoint.load(path), open_sampler(old_run).images([3])
    state["config"]["model"] |= SIZES | {"mapping": "mlp"}
    torch.save(state, path)
    assert methods.load(path)["best"] == state["best"]
    assert torch.equal(open_sampler(old_run).images([3]), images)
    state["config"]["model"]["mapping"] = "tokens"
    torch.save(state, path)
    with pytest.raises(UserError) as told:
        open_sampler(old_run)
    assert str(told.value) == (
        f"{path}: model.mapping=tokens: this setting was removed, and every run now has mlp; leave it out, or use the revision that had it"
    )
