"""Diffusions, solvers and likelihoods against what is known of them: simulations, Gaussians, a mixture."""

import math

import pytest
import torch
from torch import Tensor

from baselines.likelihood import bits_per_dim, log_likelihood
from baselines.sde import EARLIEST, KINDS, diffusion_of, noised, score_matching, wide
from baselines.solvers import LAST, ddim, predictor_corrector, probability_flow, times
from training import rng

each_diffusion = pytest.mark.parametrize("diffusion", [diffusion_of(kind, 50) for kind in KINDS], ids=KINDS)
SHAPE = (3, 2, 2)


def denoiser_of(diffusion, mean: float, deviation: float):
    """Return the exact denoiser of independent normal numbers with this mean and deviation."""

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = wide(diffusion.alpha(t)), wide(diffusion.sigma(t))
        variance = (alpha * deviation).square() + sigma.square()
        return sigma * (x - alpha * mean) / variance

    return denoiser


def noise_of(count: int, shape=SHAPE):
    def noise(purpose: str, step: int) -> Tensor:
        return torch.stack([rng.normal(shape, seed, purpose, step) for seed in range(count)]).double()

    return noise


@each_diffusion
def test_marginals_are_those_of_the_simulated_diffusion(diffusion):
    torch.manual_seed(0)
    steps, stop = 2000, 0.6
    x = torch.full((20_000,), 0.7, dtype=torch.float64)
    if diffusion == diffusion_of("ve", 50):
        x = x + diffusion.sigma(torch.zeros(())).item() * torch.randn_like(x)  # its noise does not begin at 0
    for t in torch.arange(steps, dtype=torch.float64) * stop / steps:
        middle = t + stop / steps / 2
        x = x + diffusion.f(middle) * x * stop / steps + (diffusion.g2(middle) * stop / steps).sqrt() * torch.randn_like(x)
    t = torch.tensor(stop, dtype=torch.float64)
    assert x.mean().item() == pytest.approx(0.7 * diffusion.alpha(t).item(), abs=4 * diffusion.sigma(t).item() / math.sqrt(20_000) + 2e-3)
    assert x.std().item() == pytest.approx(diffusion.sigma(t).item(), rel=0.03)


@each_diffusion
def test_the_loss_is_least_for_the_exact_denoiser(diffusion):
    torch.manual_seed(0)
    images = 0.3 + 0.5 * torch.randn(20_000, *SHAPE)
    t, eps = torch.rand(len(images)) * (1 - LAST) + LAST, torch.randn_like(images)
    exact = denoiser_of(diffusion, 0.3, 0.5)
    x = noised(diffusion, images, t, eps)
    for likelihood in (False, True):
        losses = [score_matching(diffusion, factor * exact(x, t), eps, t, likelihood).mean() for factor in (0.8, 1.0, 1.2)]
        assert losses[1] < min(losses[0], losses[2])
    weighted, plain = (score_matching(diffusion, torch.zeros_like(eps), eps, t, likelihood) for likelihood in (True, False))
    torch.testing.assert_close(plain, eps.square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(weighted, plain * diffusion.g2(t) / diffusion.sigma(t) ** 2)


@each_diffusion
@pytest.mark.parametrize("solver", ["predictor", "predictor-corrector", "flow", "ddim"])
def test_samples_of_a_gaussian_have_its_moments(diffusion, solver):
    # Langevin steps follow from a row's norms, which are those of an image in many dimensions only.
    denoiser, noise = denoiser_of(diffusion, 0.3, 0.5), noise_of(*((40, (3, 16, 16)) if "corr" in solver else (600, SHAPE)))
    grid = times(100, noise("start", 0))
    start = noise("start", 0) * diffusion.sigma(grid[0])
    if solver == "flow":
        samples = probability_flow(denoiser, diffusion, start, grid)
    elif solver == "ddim":
        samples = ddim(denoiser, diffusion, start, times(1000, start))
    else:
        samples = predictor_corrector(denoiser, diffusion, noise, steps=300, snr=0.16 if "corr" in solver else 0.0)
    assert samples.mean().item() == pytest.approx(0.3, abs=0.03) and samples.std().item() == pytest.approx(0.5, rel=0.05)


@each_diffusion
def test_a_row_does_not_depend_on_the_others(diffusion):
    denoiser = denoiser_of(diffusion, 0.3, 0.5)
    many, alone = (predictor_corrector(denoiser, diffusion, noise_of(count), steps=5, snr=0.2) for count in (4, 1))
    assert torch.equal(many[:1], alone)


@each_diffusion
def test_encoding_and_sampling_return_the_image(diffusion):
    torch.manual_seed(0)
    denoiser, images = denoiser_of(diffusion, 0.3, 0.5), 0.3 + 0.5 * torch.randn(3, *SHAPE, dtype=torch.float64)
    grid = times(200, images)
    code = probability_flow(denoiser, diffusion, images, grid.flip(0))
    torch.testing.assert_close(probability_flow(denoiser, diffusion, code, grid), images, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(code, images, atol=0.1)


def test_samples_of_a_mixture_have_its_moments():
    """Two normals at -0.5 and 0.5 with weights 0.3 and 0.7, in every number alone."""
    diffusion, means, weights, deviation = diffusion_of("vp", 50), (-0.5, 0.5), (0.3, 0.7), 0.1

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = wide(diffusion.alpha(t)), wide(diffusion.sigma(t))
        variance = (alpha * deviation).square() + sigma.square()
        logs = torch.stack([math.log(w) - (x - alpha * m).square() / (2 * variance) for w, m in zip(weights, means)])
        shares = logs.softmax(dim=0)
        return sigma * (x - alpha * (shares[0] * means[0] + shares[1] * means[1])) / variance

    noise = noise_of(800)
    start = noise("start", 0) * diffusion.sigma(torch.ones(()))
    for samples in (
        predictor_corrector(denoiser, diffusion, noise, steps=300, snr=0.0),
        probability_flow(denoiser, diffusion, start, times(200, start)),
    ):
        assert samples.mean().item() == pytest.approx(0.2, abs=0.03)
        assert (samples > 0).double().mean().item() == pytest.approx(0.7, abs=0.02)
        assert samples[samples > 0].std().item() == pytest.approx(deviation, rel=0.1)


@each_diffusion
def test_the_likelihood_of_a_gaussian_is_its_density(diffusion):
    torch.manual_seed(0)
    # At time EARLIEST the images have faded by alpha and got noise: the density there is known too.
    alpha, sigma = (part(torch.tensor(EARLIEST, dtype=torch.float64)).item() for part in (diffusion.alpha, diffusion.sigma))
    deviation = math.hypot(alpha * 0.5, sigma)
    x = alpha * 0.3 + deviation * torch.randn(4, *SHAPE, dtype=torch.float64)
    probe = torch.randint(2, x.shape) * 2.0 - 1  # the flow is linear in every number alone, so that any probe is exact
    found = log_likelihood(denoiser_of(diffusion, 0.3, 0.5), diffusion, x, probe.double())
    exact = torch.distributions.Normal(alpha * 0.3, deviation).log_prob(x).flatten(1).sum(dim=1)
    # What is left: the prior, which forgets the images' own mean and deviation.
    assert (found - exact).abs().max() < 0.02 * x[0].numel()


def test_bits_of_bytes_are_those_of_a_known_law():
    """Bytes of a normal law with a deviation of 25.6 levels: their entropy is that of the normal law, for fine levels."""
    diffusion = diffusion_of("vp", 50)
    deviation = 0.2
    torch.manual_seed(0)
    images = ((torch.randn(40, *SHAPE) * deviation + 1) * 128).floor().clamp(0, 255).to(torch.uint8)
    found = bits_per_dim(denoiser_of(diffusion, 0.0, deviation), diffusion, images, lambda row: rng.generator(0, "bits", row))
    entropy = math.log2(deviation * 128 * math.sqrt(2 * math.pi * math.e))
    assert found.mean().item() == pytest.approx(entropy, abs=4 * found.std().item() / math.sqrt(40) + 0.02)
    again = bits_per_dim(denoiser_of(diffusion, 0.0, deviation), diffusion, images[:1], lambda row: rng.generator(0, "bits", row))
    assert again.item() == pytest.approx(found[0].item(), abs=1e-3)


@each_diffusion
def test_clipping_keeps_the_expected_image_in_range_and_changes_no_other(diffusion):
    noise = noise_of(20)
    grid = times(50, noise("start", 0))
    start = noise("start", 0) * diffusion.sigma(grid[0])
    far, near = denoiser_of(diffusion, 5.0, 0.01), denoiser_of(diffusion, 0.1, 0.01)
    assert ddim(far, diffusion, start, grid).mean() > 4 and ddim(far, diffusion, start, grid, clip=True).mean() < 1.2
    torch.testing.assert_close(ddim(near, diffusion, start, grid, clip=True), ddim(near, diffusion, start, grid))
