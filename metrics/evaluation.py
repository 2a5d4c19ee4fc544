"""One evaluation from end to end: images, and their generator if there is one, to numbers and material for the page."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from metrics.alterations import COPIES, RESIZED, SPOILT, changed_copies
from metrics.cache import Cache
from metrics.calibration import Altered, Calibration, calibrate
from metrics.features import NETWORKS, FeaturePass
from metrics.images import Images, Request, sweep
from metrics.interface import Context, Decoder, Features, Likelihood, Measurement, Protocol, Reals, Sets, Value, spread
from metrics.measure import measure, measurements, networks_of, repeated
from metrics.progress import Progress
from metrics.table import GENERATOR, LIKELIHOOD, SAMPLES, chosen
from metrics.teacher import marked
from models.weights import sha256_of

MOST_ALTERED = 100  # training images that are changed to test the verdict


@dataclass
class Evaluation:
    """The numbers, and the material for the page's pictures; None for parts that were not computed."""

    measured: dict[str, Measurement] = field(default_factory=dict)
    calibration: dict[str, Calibration | None] = field(default_factory=dict)
    sets: Sets | None = None
    material: list[object] = field(default_factory=list)  # objects that metrics leave for the page

    @property
    def network(self) -> str | None:
        """Return the first network of the features that has weights; None if all features are pixels."""
        return next((name for name in self.sets.real if NETWORKS[name].weights), None) if self.sets else None

    def of(self, kind: type) -> list:
        """Return the material of one kind."""
        return [each for each in self.material if isinstance(each, kind)]


class Evaluator:
    """Compute the requested metrics, and keep every slow result on disk."""

    def __init__(self, protocol: Protocol, metrics: list[str], *, device: str, cache: Cache, num_backtracked: int):
        self.protocol, self.metrics, self.device, self.cache = protocol, metrics, device, cache
        self.networks = networks_of(protocol, metrics)
        self.num_backtracked = num_backtracked

    def __call__(
        self,
        samples: list[Images],
        reals: Reals,
        decoder: Decoder | str,
        *,
        likelihood: Likelihood | None = None,
        config: dict | None = None,
    ) -> Evaluation:
        """Evaluate sets of samples. The page shows the first set; the others are repeats.

        `decoder` is the generator of the samples, or the reason why there is none; the report prints the reason. `likelihood`
        is that of the model, if it has one. `config` is the configuration of the run that made the samples, None without a run.
        """
        context = Context(samples[0], reals, decoder, self.protocol.perceptual, self.num_backtracked, self.device, self.cache, likelihood)
        self.progress = context.progress = Progress(self.work(samples, context), announce=self.device == "cpu")
        answer = Evaluation(material=context.material)
        try:
            self._features(answer, samples, reals)
            for metric in chosen(self.metrics, SAMPLES, GENERATOR, LIKELIHOOD):
                if metric.source == GENERATOR and isinstance(decoder, str):
                    values = [None if number.heldout else Value(None, decoder, num_fake=0) for number in metric.numbers]
                else:
                    values = metric.measure(context)
                answer.measured |= measurements(metric, values, self.protocol, num_real=len(reals.images), num_fake=samples[0].count)
        finally:
            self.progress.close()
        self.cache.prune()
        answer.measured = marked(answer.measured, config)
        return answer

    def work(self, samples: list[Images], context: Context) -> int:
        """Return the total work in image passes."""
        reals = context.reals
        sets = [reals.real, *filter(None, [reals.held, reals.mirror]), *samples]
        altered = min(len(reals.images), MOST_ALTERED)
        work = len(self.networks) * sum(images.count for images in sets)
        work += altered * len(self.networks) * bool(self._tried(COPIES))
        work += altered * sum(len(ways) * len(self._tried(ways)) for ways in (SPOILT, RESIZED))
        sources = [SAMPLES, LIKELIHOOD] if isinstance(context.decoder, str) else [SAMPLES, GENERATOR, LIKELIHOOD]
        return work + sum(metric.work(context) for metric in chosen(self.metrics, *sources))

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
        """Compute the features of changed training images, for the metrics that the verdict tests on them."""
        images = reals.images[spread(len(reals.images), MOST_ALTERED)]
        copies, ways = changed_copies(images)
        taken = self._taken(Images.of_tensor("features of changed copies", copies)) if self._tried(COPIES) else None
        return Altered(taken, ways, *(self._each(images, changes) for changes in (SPOILT, RESIZED)))

    def _each(self, images: Tensor, changes: dict[str, Callable[[Tensor], Tensor]]) -> dict[str, Features]:
        """Compute the features of images (k, 3, H, W) after each change, for the metrics that the verdict tests on them."""
        if not (networks := self._tried(changes)):
            return {}
        return {
            name: self._taken(Images.of_tensor(f"features of real images, {name}", change(images)), networks)
            for name, change in changes.items()
        }

    def _tried(self, altered: dict) -> list[str]:
        """Return the networks of the metrics that the verdict tests on images `altered` like this."""
        return networks_of(self.protocol, self.metrics, altered)

    def _taken(self, images: Images | None, networks: list[str] | None = None) -> Features | None:
        if images is None:
            return None
        requests = {
            name: Request(
                {
                    "pass": "features",
                    "network": name,
                    "input": NETWORKS[name].input,
                    "weights": NETWORKS[name].weights and sha256_of(NETWORKS[name].weights),
                },
                lambda name=name: FeaturePass(name, self.device),
            )
            for name in networks or self.networks
        }
        results = sweep(images, requests, self.device, self.cache, self.progress)
        return {name: result["features"] for name, result in results.items()}
