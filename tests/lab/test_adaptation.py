"""The adaptation experiment from end to end, on a tiny prior."""

import json

import pytest
import torch
from conftest import ROOT

import methods
from baselines.denoiser import Denoiser
from baselines.prior import find_prior
from baselines.score_sde import ScoreSde
from baselines.sde import diffusion_of
from data import READER, Record
from errors import UserError
from lab import adaptation
from lab import prior as save_prior
from methods import load_config
from models.unet import architecture
from training import checkpoint
from training.settings import to_dict

REAL = ["the ten images", "the held-out images"]
SYSTEMS = [*REAL, "noised images, no guidance", "CRDI, closed form", "CRDI, Adam", "the prior itself", "fine-tuned, 1 steps"]
SYSTEMS += ["fine-tuned, 3 steps", "from scratch, 1 steps", "from scratch, 3 steps"]


@pytest.fixture
def prior(tmp_path):
    config = load_config(None, ["method=score-sde", "data.resolution=16", "denoiser.channels=[32]"])
    torch.manual_seed(0)
    unet = architecture(16, [32], exploding=False)
    sampled = {"unet": unet, "weights": Denoiser(unet, diffusion_of("vp", 0.0)).state_dict(), "prior": None}
    data = Record("images", [], [], READER)._asdict()
    checkpoint.save({"config": to_dict(config), "data": data, "step": 0, "selected_by": None, "sampled": sampled}, tmp_path / "prior.pt")
    return tmp_path / "prior.pt"


@pytest.mark.parametrize("word", ["faces", "=faces", "faces="])
def test_a_set_needs_a_name_and_a_folder(word, tmp_path):
    with pytest.raises(UserError, match=f"^--sets {word}: write NAME=IMAGES$"):
        adaptation.main(["--out", str(tmp_path / "out"), "--sets", word])
    assert not (tmp_path / "out").exists()


def test_an_error_in_one_of_several_processes_is_the_error_of_the_command(tmp_path):
    with pytest.raises(UserError, match="^data.path: no folder or .zip"):
        adaptation.main(["--out", str(tmp_path / "out"), "--sets", f"faces={tmp_path}/none", "--workers", "2"])


def test_every_system_is_scored_on_the_images_that_it_did_not_see(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adaptation, "RESOLUTION", 16)
    monkeypatch.setattr(adaptation, "MARKS", (1, 3, 9))
    monkeypatch.setattr(adaptation, "DESCENT", 2)
    monkeypatch.setattr(adaptation, "STEPS", 2)
    monkeypatch.setattr(adaptation, "WINDOW", (2, 1))
    monkeypatch.setattr(ScoreSde, "bits", lambda _, images: float(len(images)))  # which are tested elsewhere, and slow
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((ROOT / "data" / "fluent_faces").glob("*.png"))[:24]:
        (few / path.name).symlink_to(path)
    given = ["--out", str(tmp_path / "out"), "--prior", str(prior), "--sets", f"faces={few}"]
    given += ["--seeds", "2", "--steps", "3", "--samples", "12", "--workers", "1"]
    adaptation.main(given)
    found = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]["faces"]
    assert [list(seed) for seed in found] == [SYSTEMS, SYSTEMS]
    for seed in found:
        for name, row in seed.items():
            if name in REAL:
                assert row["to_training"] == (0 if name == REAL[0] else seed[REAL[0]]["nearest"])
                continue
            diffusion = not name.startswith(("CRDI", "noised"))
            assert ("heldout_bits_per_dim" in row) == ("train_bits_per_dim" in row) == diffusion
            assert row["fd_heldout"] > 0 and row["nearest"] > 0 and row["to_training"] > 0
    assert found[0]["CRDI, closed form"] != found[1]["CRDI, closed form"]
    ten, other = (adaptation.ten_of(str(few), seed) for seed in (0, 1))
    assert len(ten.images) == 10 and len(ten.others) == 14 and not torch.equal(ten.images, other.images)
    written = (tmp_path / "out" / "results.md").read_text()
    assert written.count("\n| ") == 1 + len(SYSTEMS) and "+-" in written and (tmp_path / "out" / "curves.png").exists()
    monkeypatch.setattr(adaptation, "systems", lambda *_: 1 / 0)
    adaptation.main(given)  # from what is there
    assert (tmp_path / "out" / "results.md").read_text() == written
    capsys.readouterr()


def test_a_prior_in_16_bits_is_a_prior_and_draws_nearly_the_same(prior, tmp_path, capsys):
    torch.manual_seed(0)
    save_prior.main([str(prior), str(tmp_path / "small.pt")])
    assert (tmp_path / "small.pt").stat().st_size < 0.6 * prior.stat().st_size and " MB" in capsys.readouterr().out
    whole, small = find_prior(str(prior)), find_prior(str(tmp_path / "small.pt"))
    assert whole.sha256 != small.sha256 and whole.unet == small.unet
    for name, tensor in whole.weights.items():
        torch.testing.assert_close(small.weights[name], tensor, rtol=1e-3, atol=1e-4)
    ours, theirs = (methods.open_sampler(path).images([0, 1]).float() for path in (prior, tmp_path / "small.pt"))
    assert (ours - theirs).abs().mean() < 2
