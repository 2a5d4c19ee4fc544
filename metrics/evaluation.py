"""One evaluation from end to end: images and perhaps their generator in, numbers and what to show of them out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from metrics import backtracking, paths
from metrics.alterations import SPOILT, changed_copies
from metrics.cache import Cache
from metrics.calibration import Altered, Calibration, calibrate
from metrics.features import NETWORKS, FeaturePass
from metrics.images import Images, Request, digest, sweep
from metrics.measure import (
    GENERATOR_METRICS, PERCEPTUAL_METRICS, Features, Measurement, Protocol, Sets, backtrack_distances, backtrack_gap,
    intra_distance, measure, perceptual_mean, repeated)
from metrics.neighbours import NeighbourPass
from metrics.paths import Decoder
from metrics.progress import Progress
from metrics.teacher import marked
from models.memory import memory_for
from models.perceptual import WEIGHTS_OF, Embedding, load_embedding
from models.weights import sha256_of

SEED = 0  # of the latents that paths and searches start from, which are none of the samples
MOST_CLUSTERS = 500  # training images, beyond which intra-LPIPS (a few-shot measure) would take too much memory
HELDOUT_QUERIES = 24  # held-out images whose nearest samples are shown
MOST_ALTERED = 100  # training images that are changed, to see what the verdict would make of them
NO_GENERATOR = "needs the generator itself: give a run, a checkpoint or an export"


class Reals(NamedTuple):
    """The real images: at the generator's resolution, and as the feature networks are to see them."""

    images: Tensor            # uint8 (n, 3, H, W)
    heldout: Tensor           # uint8 (h, 3, H, W), h = 0 where there are none
    real: Images
    held: Images | None
    mirror: Images | None     # the flipped training images, when training flipped them

    @property
    def queries(self) -> list[int]:
        """Return which of the held-out images are shown beside the samples nearest to them."""
        return spread(len(self.heldout), HELDOUT_QUERIES)


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` places, evenly spread over `count`."""
    chosen = min(most, count)
    return [place * count // chosen for place in range(chosen)]


@dataclass
class Evaluation:
    """The numbers, and the material of the report's pictures; what was not computed is None."""

    measured: dict[str, Measurement] = field(default_factory=dict)
    calibration: dict[str, Calibration | None] = field(default_factory=dict)
    sets: Sets | None = None
    recall: Tensor | None = None                # perceptual distances of samples to real images (M, n + h)
    strips: Tensor | None = None                # uint8 (K, F, 3, H, W)
    jump_ratios: Tensor | None = None           # (K,)
    backtracks: list["Backtrack"] = field(default_factory=list)


class Backtrack(NamedTuple):
    """What came of the search for the latents of some real images."""

    name: str                 # heldout or train
    index: list[int]          # of the images, among their own
    found: backtracking.Backtracked
    to_nearest: Tensor        # perceptual distance to the nearest (other) training image (k,): a copier does no better


def weights_of(protocol: Protocol, metrics: list[str], images_only: bool) -> list[str]:
    """Return the keys of all weights that an evaluation needs, so that none is found missing later."""
    keys = list(filter(None, (NETWORKS[network].weights for network in protocol.networks(metrics))))
    looked_at = set(metrics) & set(PERCEPTUAL_METRICS) - set(GENERATOR_METRICS if images_only else ())
    return list(dict.fromkeys([*keys, *(WEIGHTS_OF[protocol.perceptual] if looked_at else ())]))


class Evaluator:
    """Compute what was asked for, keeping every slow result on disk."""

    def __init__(self, protocol: Protocol, metrics: list[str], *, device: str, cache: Cache, num_backtracked: int):
        self.protocol, self.metrics, self.device, self.cache = protocol, metrics, device, cache
        self.networks = protocol.networks(metrics)
        self.num_backtracked = num_backtracked
        self._of_generator = {"ppl": ("ppl", self._path_length), "jumps": ("jump_ratio", self._jumps),
                              "backtracking": ("backtrack_train", self._backtracking)}  # fmt: skip

    def __call__(self, samples: list[Images], reals: Reals, decoder: Decoder | None, config: dict | None = None) -> Evaluation:
        """Evaluate sets of samples, the first of which is shown and the others are repeats of it.

        `config` is that of the run that made them, None where they come from elsewhere.
        """
        self.progress = Progress(self._work(samples, reals, decoder), announce=self.device == "cpu")
        answer = Evaluation()
        try:
            self._features(answer, samples, reals)
            self._neighbours(answer, samples[0], reals)
            for metric, (name, method) in self._of_generator.items():
                if metric in self.metrics and decoder:
                    method(answer, decoder, reals)
                elif metric in self.metrics:
                    answer.measured |= self._named({name: Measurement(None, "lower", len(reals.images), 0, reason=NO_GENERATOR)})
        finally:
            self.progress.close()
        self.cache.prune()
        answer.measured = marked(answer.measured, config)
        return answer

    def _work(self, samples: list[Images], reals: Reals, decoder: Decoder | None) -> int:
        """Return the image passes that everything takes."""
        sets = [reals.real, *filter(None, [reals.held, reals.mirror]), *samples]
        work = {"features": len(self.networks) * sum(images.count for images in sets)}
        altered = min(len(reals.images), MOST_ALTERED)
        work["features"] += altered * (len(self.networks) * ("copying" in self.metrics) + len(SPOILT) * ("pr" in self.metrics))
        if len(reals.images) <= MOST_CLUSTERS:
            work["intra_lpips"] = samples[0].count
        if decoder:
            work |= {"ppl": 2 * paths.NUM_STEPS, "jumps": paths.NUM_STRIPS * paths.FRAMES,
                     "backtracking": sum(backtracking.passes(len(index)) for _, index in self._chosen(reals))}  # fmt: skip
        return sum(passes for what, passes in work.items() if what == "features" or what in self.metrics)

    def _features(self, answer: Evaluation, samples: list[Images], reals: Reals) -> None:
        if not self.networks:
            return
        real, mirror = self._taken(reals.real), self._taken(reals.mirror)
        heldout = self._taken(reals.held)
        sets = [Sets(real, self._taken(images), heldout, mirror) for images in samples]
        altered = self._altered(reals)
        self.progress.stage("comparing features")
        measured = [measure(each, self.protocol, self.metrics) for each in sets]
        answer.sets = sets[0]
        answer.measured = {name: repeated(first, [other[name] for other in measured[1:]]) for name, first in measured[0].items()}
        answer.calibration = calibrate(sets[0], self.protocol, self.metrics, altered)

    def _altered(self, reals: Reals) -> Altered:
        """Take the features of training images changed in known ways, as far as there are sentences to try on them."""
        images = reals.images[spread(len(reals.images), MOST_ALTERED)]
        copies, ways = changed_copies(images)
        taken = self._taken(Images.of_tensor("features of changed copies", copies)) if "copying" in self.metrics else None
        found = {name: self._taken(Images.of_tensor(f"features of real images {name}", spoil(images)), [self.protocol.manifold])
                 for name, spoil in SPOILT.items()} if "pr" in self.metrics else {}  # fmt: skip
        return Altered(taken, ways, found)

    def _taken(self, images: Images | None, networks: list[str] | None = None) -> Features | None:
        if images is None:
            return None
        requests = {name: Request({"pass": "features", "network": name, "input": NETWORKS[name].input,
                                   "weights": NETWORKS[name].weights and sha256_of(NETWORKS[name].weights)},
                                  lambda name=name: FeaturePass(name, self.device)) for name in networks or self.networks}  # fmt: skip
        results = sweep(images, requests, self.device, self.cache, self.progress)
        return {name: result["features"] for name, result in results.items()}

    def _neighbours(self, answer: Evaluation, samples: Images, reals: Reals) -> None:
        if "intra_lpips" not in self.metrics:
            return
        n = len(reals.images)
        if n > MOST_CLUSTERS:
            answer.measured |= self._named({"intra_lpips": Measurement(
                None, "higher", n, samples.count, reason=f"a few-shot measure, taken of at most {MOST_CLUSTERS} training images")})
            return
        queries = torch.cat([reals.images, reals.heldout[reals.queries]])
        request = Request(self._key("neighbours", queries=digest(queries), clusters=n),
                          lambda: NeighbourPass(self._embedding(), self.device, queries, n))
        found = sweep(samples, {"neighbours": request}, self.device, self.cache, self.progress)["neighbours"]
        answer.recall = found["distances"]
        answer.measured |= self._named({"intra_lpips": intra_distance(found["spread"], found["members"], samples.count)})

    def _path_length(self, answer: Evaluation, decoder: Decoder, reals: Reals) -> None:
        work = 2 * paths.NUM_STEPS
        kept = self._kept("path lengths", decoder, {"steps": paths.NUM_STEPS, "epsilon": paths.EPSILON}, work, lambda: {
            "lengths": paths.step_lengths(decoder, self._embedding(), SEED, self.progress.advance)})
        value, error = paths.path_length(kept["lengths"])
        answer.measured |= self._named({"ppl": Measurement(
            value, "lower", len(reals.images), paths.NUM_STEPS, error=error,
            note=f"arcs in z, epsilon {paths.EPSILON:g}, longest and shortest {paths.TRIMMED:.0%} left out")})

    def _jumps(self, answer: Evaluation, decoder: Decoder, reals: Reals) -> None:
        def make() -> dict[str, Tensor]:
            strips, distances = paths.strips(decoder, self._embedding(), SEED, self.progress.advance)
            return {"strips": strips, "distances": distances}

        parts = {"strips": paths.NUM_STRIPS, "frames": paths.FRAMES}
        kept = self._kept("interpolations", decoder, parts, paths.NUM_STRIPS * paths.FRAMES, make)
        answer.strips, answer.jump_ratios = kept["strips"], paths.jump_ratios(kept["distances"])
        answer.measured |= self._named({"jump_ratio": perceptual_mean(
            answer.jump_ratios, "lower", len(reals.images), paths.NUM_STRIPS)})

    def _backtracking(self, answer: Evaluation, decoder: Decoder, reals: Reals) -> None:
        embed = self._embedding(backtracking.PIXEL_WEIGHT)
        for name, index in self._chosen(reals):
            images = (reals.heldout if name == "heldout" else reals.images)[index]
            parts = {"images": digest(images), "steps": backtracking.STEPS, "starts": backtracking.STARTS}
            kept = self._kept(f"backtracking, {name}", decoder, parts, backtracking.passes(len(index)), lambda: (
                backtracking.backtrack(decoder, embed, images, SEED, self.progress.advance)._asdict()))
            nearest = backtracking.to_nearest(embed, images, reals.images, decoder.device)
            answer.backtracks.append(Backtrack(name, index, backtracking.Backtracked(**kept), nearest))
        for each in answer.backtracks:
            answer.measured |= self._named(backtrack_distances(
                each.name, each.found.distances, each.found.latents, each.to_nearest, len(reals.images)))
        if len(answer.backtracks) == 2:
            heldout, train = (each.found.distances for each in answer.backtracks)
            answer.measured |= self._named({"backtrack_gap": backtrack_gap(heldout, train, len(reals.images))})

    def _named(self, measured: dict[str, Measurement]) -> dict[str, Measurement]:
        """Return perceptual numbers by their names in this protocol."""
        return {name + self.protocol.suffix: replace(number, network=self.protocol.perceptual) for name, number in measured.items()}

    def _chosen(self, reals: Reals) -> list[tuple[str, list[int]]]:
        """Return which held-out and which training images are searched for: evenly spread over their names."""
        both = [("heldout", spread(len(reals.heldout), self.num_backtracked)), ("train", spread(len(reals.images), self.num_backtracked))]
        return [(name, index) for name, index in both if index]

    def _embedding(self, pixel_weight: float = 0.0) -> Embedding:
        return load_embedding(self.protocol.perceptual, pixel_weight).to(self.device, memory_format=torch.channels_last)

    def _key(self, kind: str, **parts: object) -> dict:
        weights = [sha256_of(key) for key in WEIGHTS_OF[self.protocol.perceptual]]
        return {"pass": kind, "perceptual": self.protocol.perceptual, "weights": weights, **parts}

    def _kept(self, kind: str, decoder: Decoder, parts: dict, work: int, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return what `make` gives, from the cache when it was made before."""
        self.progress.stage(kind, work)
        key = self._key(kind, decoder=decoder.identity, seed=SEED, device=decoder.device.type, torch=torch.__version__, **parts)
        kept = self.cache.load(key)
        if kept is None:
            with memory_for(kind, "take --device cpu, or fewer --metrics"):
                kept = make()
            self.cache.store(key, kept)
        else:
            self.progress.skip(work)
        return kept
