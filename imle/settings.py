"""The settings of IMLE, Adaptive IMLE and RS-IMLE: the generator, the training distance, and the method."""

from dataclasses import dataclass, field
from typing import Literal

from errors import UserError
from imle.earlier import translated_settings
from imle.search import SEARCHES
from models.perceptual import TEACHERS
from training.settings import Settings, resolution, setting


@dataclass(frozen=True)
class Model:
    """The generator."""

    latent_dim: int = setting(32, "length of a latent z", least=1, fixed=True)
    style_dim: int = setting(256, "width of the mapping network and length of a style w", least=1, fixed=True)
    mapping_layers: int = setting(4, "layers of the mapping network", least=0, most=64, fixed=True)
    channels: list[int] = setting(
        [128, 128, 96, 64, 32], "width at each resolution, from the learned constant to the final one", least=1, fixed=True
    )
    blocks: list[int] = setting([2, 2, 2, 2, 1], "blocks at each resolution", least=1, fixed=True)
    noise: bool = setting(False, "add noise, the same for all latents, to the maps of every block at learned strengths", fixed=True)


@dataclass(frozen=True)
class Loss:
    """The distance that training minimises."""

    perceptual: str = setting("effnet-lite0", "network whose features are compared", choices=TEACHERS, fixed=True)
    pixel_weight: float = setting(0.3, "weight of the pixels' mean squared error, added to the perceptual distance", least=0.0, fixed=True)
    stage_weight: float = setting(
        0.0, "weight of the mean squared error at the resolutions below the final one; 0: no such error", least=0.0, fixed=True
    )
    cache_gb: float | Literal["auto"] = setting(
        "auto",
        "keep all targets' maps in memory up to this size; if they are larger, embed them at each step; "
        "auto: half of a GPU's free memory, 4 on a CPU",
        least=0.0,
        silent=True,
    )


@dataclass(frozen=True)
class Imle:
    """The method: pool, rejection and matching."""

    match: str = setting(
        "every",
        "every: rematch all images every refresh_epochs; adaptive: rematch an image once its loss is low enough",
        choices=("every", "adaptive"),
        fixed=True,
    )
    reject: str = setting("share", "which candidates are rejected", choices=("none", "fixed", "share", "quantile", "rank", "median_rank"))
    pool_factor: float = setting(5.0, "candidates per image in a pool: m = pool_factor * n", least=0.01, fixed=True)
    pool_batch: int = setting(64, "candidates generated at once; memory and speed only", least=1, silent=True)
    refresh_epochs: int = setting(10, "epochs between two refreshes (every)", least=1)
    features: str = setting("loss", "features for matching; loss: the training embedding", choices=("loss", *TEACHERS), fixed=True)
    sketch_dim: int = setting(0, "length of the random sketch of the features; 0: the features themselves", least=0, fixed=True)
    normalise: bool = setting(False, "scale features to length 1", fixed=True)
    search: str = setting("exact", "how the nearest candidate is found", choices=SEARCHES)
    epsilon: float = setting(0.0, "radius in feature units (fixed)", least=0.0)
    rejected_fraction: float = setting(0.1, "share of the pool to reject, nearest to any image first (share)", least=0.0, most=0.99)
    perturbation: float = setting(0.0, "standard deviation of the noise added to a matched latent at every step", least=0.0)
    adaptive_decay: float = setting(
        0.98,
        "delta: rematch an image once its loss is below delta times the first loss of its match (adaptive)",
        least=0.0,
        most=1.0,
        effect=", for each image from its next match on",
    )
    staleness: int = setting(5, "keep a match for at least this many epochs (adaptive)", least=0)
    force_resample: int = setting(30, "keep a match for at most this many epochs (adaptive)", least=1)


@dataclass(frozen=True)
class Config(Settings):
    """All settings of a run of IMLE."""

    method: str = setting("imle", "method to train", fixed=True)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    imle: Imle = field(default_factory=Imle)

    @staticmethod
    def translated(values: dict) -> dict:
        """Return the `values` of a file or a checkpoint, with an earlier revision's names replaced. Raises UserError."""
        return translated_settings(Settings.translated(values))

    def check(self) -> None:
        """Raise UserError for settings that contradict each other."""
        super().check()
        levels = len(self.model.channels)
        if levels == 0 or len(self.model.blocks) != levels:
            raise UserError(f"model.blocks: has {len(self.model.blocks)} entries and model.channels {levels}; give one each per resolution")
        scale = 2 ** (levels - 1)
        for side in resolution(self):
            if side % scale or side // scale < 2:
                raise UserError(
                    f"data.resolution: {side} does not fit {levels} entries in model.channels, which double a start of "
                    f"2 or more pixels {levels - 1} times; use a multiple of {scale} from {2 * scale}, or change model.channels"
                )
        if self.loss.stage_weight and levels == 1:
            raise UserError("loss.stage_weight: needs a resolution below the final one, but model.channels has one entry; set it to 0")
        if self.imle.reject in ("rank", "median_rank") and self.imle.search != "exact":
            raise UserError(
                f"imle.reject: {self.imle.reject} needs imle.search=exact, which counts every candidate; {self.imle.search} does not"
            )
        if self.imle.staleness > self.imle.force_resample:
            raise UserError("imle.staleness: must not be larger than imle.force_resample")
