"""What a diffusion method starts from: a trained denoiser, by name."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from baselines.denoiser import Denoiser
from baselines.sde import diffusion_of
from errors import MissingWeights, UserError
from models.unet import read_published
from models.weights import FOLDER_VARIABLE
from training import checkpoint

METHOD = "score-sde"  # whose runs are priors
SHIPPED = Path(__file__).with_name("priors")  # those that come with the project, as NAME.pt


class Prior(NamedTuple):
    """A trained denoiser, to start from."""

    unet: dict[str, Any]  # settings of the U-Net
    weights: dict[str, Tensor]  # of `Denoiser`
    kind: str  # of the diffusion
    sigma_max: float | None  # None: unknown, or not of ve
    name: str
    sha256: str  # of the weights

    def denoiser(self) -> Denoiser:
        """Return it as a network, frozen. Raises UserError if its diffusion is not known."""
        if self.kind == "ve" and self.sigma_max is None:
            raise UserError(
                f"prior: {self.name} lacks scheduler_config.json, which says its sigma_max; put that file beside its config.json"
            )
        network = Denoiser(self.unet, diffusion_of(self.kind, self.sigma_max or 0.0))
        network.load_state_dict(self.weights)
        return network.eval().requires_grad_(False)

    @property
    def record(self) -> dict[str, str]:
        """Return what a checkpoint keeps of it."""
        return {"name": self.name, "sha256": self.sha256}

    def check(self, kind: str, sigma_max: float) -> None:
        """Raise UserError if a run's diffusion is not the one that this was trained for."""
        if kind != self.kind:
            raise UserError(f"sde.kind: this run has {kind}, but the prior {self.name} is of kind {self.kind}; give it one of its own kind")
        if self.sigma_max not in (None, sigma_max):
            fit = f"sde.sigma_max={self.sigma_max:g}"
            raise UserError(f"sde.sigma_max: {sigma_max:g}, but the prior {self.name} has another; set {fit}")


def same_prior(before: dict | None, now: dict | None) -> None:
    """Raise UserError if the prior of a run or an export, by its name and sha256, is another by now."""
    if before and before != now:
        raise UserError(f"prior: {before['name']} is another model than it was; put back the one with sha256 {before['sha256']}")


def find_prior(name: str) -> Prior:
    """Return the trained denoiser that a setting names: a place here or in the folder of weights, or one that comes with the project.

    Raises MissingWeights if it is nowhere, and UserError if it is no denoiser of images.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    places = [Path(name), *([Path(given) / name] if given else []), *([SHIPPED / f"{name}.pt"] if name == Path(name).name else [])]
    place = next((each for each in places if each.exists()), None)
    if place is None:
        raise MissingWeights(
            f"prior: there is no {' nor '.join(map(str, places))}; give a run, checkpoint or export of {METHOD}, "
            "or the folder of a model of diffusers, as hf download OWNER/NAME --local-dir FOLDER writes it"
        )
    if (place / "config.json").is_file():
        return _of_diffusers(place, name)
    state = checkpoint.load(checkpoint.find(place))
    if state["format"] != checkpoint.FORMAT or state["config"]["method"] != METHOD:
        raise UserError(f"prior: {place} is of method={state['config'].get('method', 'imle')}; a prior is a run of {METHOD}")
    sampled = state["sampled"]
    weights = {key: value.float() for key, value in sampled["weights"].items()}
    sde = state["config"]["sde"]
    return Prior(sampled["unet"], weights, sde["kind"], sde["sigma_max"] if sde["kind"] == "ve" else None, name, _sha256(weights))


def _of_diffusers(folder: Path, name: str) -> Prior:
    unet, weights = read_published(folder)
    if unet["in_channels"] != 3 or unet["out_channels"] != 3:
        raise UserError(f"prior: {folder} has {unet['in_channels']} channels in and {unet['out_channels']} out; a denoiser of images has 3")
    weights, exploding = {f"unet.{key}": value for key, value in weights.items()}, unet.get("time_embedding_type") == "fourier"
    scheduler = folder / "scheduler_config.json"
    known = json.loads(scheduler.read_text()).get("sigma_max") if exploding and scheduler.is_file() else None
    return Prior(unet, weights, "ve" if exploding else "vp", known, name, _sha256(weights))


def _sha256(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode() + weights[key].contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
