"""Whether a run was trained on the network that scores it: a run scores well in its own training network."""

from dataclasses import replace

from metrics.features import NETWORKS
from metrics.interface import Measurement
from models.perceptual import WEIGHTS_OF


def trained_on(network: str, config: dict) -> tuple[str, ...]:
    """Return the settings by which a run was trained on the weights of a network.

    `network` is a feature network, a perceptual distance, or `model`. `config` is the run's whole configuration, of any method: a setting
    with the name of a perceptual distance as its value trains on that distance.
    """
    weights = _weights(network)
    settings = {f"{section}.{key}": value for section, part in config.items() if isinstance(part, dict) for key, value in part.items()}
    return tuple(setting for setting, value in settings.items() if isinstance(value, str) and weights & set(WEIGHTS_OF.get(value, ())))


def marked(measured: dict[str, Measurement], config: dict | None) -> dict[str, Measurement]:
    """Return the numbers with `also_training_loss` filled in from the run's configuration; unchanged without one."""
    if config is None:
        return measured
    return {name: replace(number, also_training_loss=trained_on(number.network, config)) for name, number in measured.items()}


def teachers(measured: dict[str, Measurement]) -> dict[str, tuple[str, ...]]:
    """Return the titles of the scoring networks that the run was trained on, each with the settings that name them."""
    found = {number.network: number.also_training_loss for number in measured.values() if number.also_training_loss}
    return {NETWORKS[network].title if network in NETWORKS else network: settings for network, settings in found.items()}


def _weights(network: str) -> set[str]:
    """Return the weights of a network that scores; none for `model`, the likelihood of the samples' own network."""
    if network in WEIGHTS_OF:
        return set(WEIGHTS_OF[network])
    return {NETWORKS[network].weights} if network in NETWORKS else set()
