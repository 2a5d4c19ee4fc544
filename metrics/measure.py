"""The protocols (networks and names of the metrics), and the table's rows applied to features."""

from dataclasses import replace

import torch

from errors import UserError
from metrics.features import NETWORKS
from metrics.interface import Measurement, Protocol, Sets, Value
from metrics.table import FEATURES, GENERATOR, LIKELIHOOD, METRICS, QUICK_METRICS, Metric, Number, chosen
from models.perceptual import WEIGHTS_OF
from models.weights import WEIGHTS, is_given

JUDGES = {  # networks of --features
    "inception": "the default; needs a download; comparable with published numbers",
    "effnet-lite2": "needs no download; no recipe trains on it",
    "effnet-lite0": "needs no download; the CPU recipes train on it",
}
OFFLINE_JUDGES = tuple(JUDGES)[1:]
QUICK = "quick"  # of --metrics: those that train.sh scores without a GPU
PUBLISHED_SAMPLES = 5000  # samples behind published few-shot FIDs; FID falls with the number of samples
CPU_SAMPLES, SLOW_SAMPLES = 1000, 250  # what a CPU scores in minutes: of a generator, and of a model that takes many passes for a sample


def usual_samples(device: str, protocol: str, metrics: str | None, *, slow: bool) -> int:
    """Return how many samples of a model to score: as many as published numbers have on a GPU and by the paper's protocol.

    On a CPU there are fewer, and at QUICK still fewer of a model that is `slow` to draw them.
    """
    if protocol == "paper" or not device.startswith("cpu"):
        return PUBLISHED_SAMPLES
    return SLOW_SAMPLES if slow and metrics == QUICK else CPU_SAMPLES


def _with_metrics(protocol: Protocol) -> Protocol:
    """Return a protocol with every metric that it has a network for; the paper's protocol omits some."""
    return protocol._replace(
        metrics=tuple(
            key for key, metric in METRICS.items() if protocol.network(metric.network) and (metric.paper or protocol.name != "paper")
        )
    )


PROTOCOLS = {
    key: _with_metrics(protocol)
    for key, protocol in {
        ("default", "inception"): Protocol("default", (), "inception", "inception-clean", "vgg16", "lpips-vgg", ""),
        **{("default", name): Protocol("default", (), name, None, name, name, f"_{name.replace('-', '')}") for name in OFFLINE_JUDGES},
        ("paper", "inception"): Protocol(
            "paper", (), "inception-clean", "inception-clean", "vgg16-linear", "lpips-vgg", "", strict=True, manifold_samples=1000, raw=True
        ),
    }.items()
}
NUMBERS = {
    name: number
    for protocol in PROTOCOLS.values()
    for metric in chosen(protocol.metrics)
    for name, number in metric.named(protocol).items()
}


def protocol_of(name: str, features: str, metrics: str | None, raw: bool) -> tuple[Protocol, list[str]]:
    """Return the protocol and the metrics to compute; None asks for all metrics with available weights, QUICK for QUICK_METRICS.

    Real images at their original size (`raw`) have no metrics that compare pixels.

    Raises UserError for an unknown metric or features that the protocol does not use.
    """
    if (name, features) not in PROTOCOLS:
        raise UserError(f"--protocol {name} uses Inception's features, not {features}; leave out one of both options")
    protocol = PROTOCOLS[name, features]
    if raw:
        protocol = protocol._replace(raw=True, metrics=tuple(key for key in protocol.metrics if not METRICS[key].pixels))
    metrics = ",".join(QUICK_METRICS) if metrics == QUICK else metrics
    words = metrics.split(",") if metrics else [key for key in protocol.metrics if _to_be_had(key, protocol)]
    if unknown := sorted(set(words) - set(protocol.metrics)):
        raise UserError(f"--metrics: unknown here: {', '.join(map(repr, unknown))}; choose from {','.join(protocol.metrics)}")
    return protocol, [metric for metric in protocol.metrics if metric in words]


def networks_of(protocol: Protocol, metrics: list[str], altered: dict | None = None) -> list[str]:
    """Return the networks of these metrics, each once; with `altered`, only of metrics that the verdict tests on such images."""
    rows = chosen(metrics, FEATURES, altered=altered)
    return list(dict.fromkeys(protocol.network(role) for metric in rows for role in metric.networks))


def weights_of(protocol: Protocol, metrics: list[str], images_only: bool) -> list[str]:
    """Return the keys of all weights that an evaluation needs."""
    looked_at = {metric.source for metric in chosen(metrics)} - {FEATURES, LIKELIHOOD} - ({GENERATOR} if images_only else set())
    keys = [NETWORKS[network].weights for network in networks_of(protocol, metrics)]
    return list(dict.fromkeys([*filter(None, keys), *(WEIGHTS_OF[protocol.perceptual] if looked_at else ())]))


def measure(sets: Sets, protocol: Protocol, metrics: list[str], *, errors: bool = True) -> dict[str, Measurement]:
    """Return every number of the feature metrics in `metrics`, by name; without `errors`, only quick values."""
    measured = {}
    for metric in chosen(metrics, FEATURES):
        seen = [sets.seen_by(protocol.network(role), protocol, errors) for role in metric.networks]
        measured |= measurements(metric, metric.measure(*seen), protocol, num_real=len(seen[0].real), num_fake=len(seen[0].fake))
    return measured


def measurements(metric: Metric, values: list[Value | None], protocol: Protocol, *, num_real: int, num_fake: int) -> dict[str, Measurement]:
    """Return a metric's values by name, with the facts of its row and protocol; a value's own counts take precedence."""
    answer = {}
    for (name, number), value in zip(metric.named(protocol).items(), values, strict=True):
        if value is None:
            continue
        count = num_fake if value.num_fake is None else value.num_fake
        reals = num_real if value.num_real is None else value.num_real
        comparable = number.comparable and getattr(protocol, number.comparable) and (not number.counted or count >= PUBLISHED_SAMPLES)
        answer[name] = Measurement(
            better=number.better,
            network=protocol.network(number.network or metric.network),
            comparable_with_published=bool(comparable and value.value is not None),
            **value._asdict() | {"num_fake": count, "num_real": reals},
        )
    return answer


def repeated(first: Measurement, others: list[Measurement]) -> Measurement:
    """Return the measurement of several sets of samples: the mean, and all values in `repeats`."""
    values = tuple(each.value for each in [first, *others])
    if None in values or not others:
        return first
    return replace(first, value=float(torch.tensor(values, dtype=torch.float64).mean()), repeats=values)


def number_of(name: str) -> Number:
    """Return the table's entry for a number of the report; an unknown name gets a default entry."""
    return NUMBERS.get(name) or Number(name, "lower")


def _to_be_had(metric: str, protocol: Protocol) -> bool:
    """Return whether the weights of a metric's features are present or can be downloaded."""
    keys = [NETWORKS[network].weights for network in networks_of(protocol, [metric])]
    return all(key is None or WEIGHTS[key].sha256 or is_given(key) for key in keys)
