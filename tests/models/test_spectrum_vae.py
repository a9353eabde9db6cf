"""The network: any input gives finite answers, and the score is what its calibration says."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.program import export
from models.spectrum_vae import NetworkConfig, SpectrumVAE
from models.spectrum_vae.artefacts import inject
from models.spectrum_vae.calibrate import separating_weights
from models.spectrum_vae.fit import Binned, augment, blended, class_balance
from models.spectrum_vae.loss import NO_LABEL, class_loss, divergence, misfit
from models.spectrum_vae.model import OUTPUTS
from models.spectrum_vae.preprocess import Preprocess, binned, masked_median
from models.spectrum_vae.residuals import feature_names, residual_features
from models.spectrum_vae.score import Calibration

PIXELS = 7781
SMALL = NetworkConfig(channels=(4, 8), hidden=16, rank=8)


@pytest.fixture(scope="module")
def network() -> SpectrumVAE:
    torch.manual_seed(0)
    return SpectrumVAE(SMALL).eval()


def ordinary(rows: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ivar = torch.full((rows, PIXELS), 4.0)
    return 3 + torch.randn(rows, PIXELS, generator=generator) / 2, ivar


def answers(network: SpectrumVAE, flux: Tensor, ivar: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return network(flux, ivar)


HOSTILE = {
    "all zero": (0.0, 0.0),
    "no ivar": (5.0, 0.0),
    "negative ivar": (5.0, -1.0),
    "nan flux": (float("nan"), 1.0),
    "nan ivar": (1.0, float("nan")),
    "infinite flux": (float("inf"), 1.0),
    "infinite ivar": (1.0, float("inf")),
    "largest floats": (3.4e38, 3.4e38),
    "huge but legal": (9e5, 1e38),
    "large negative": (-9e5, 1e8),
    "smallest floats": (1e-45, 1e-45),
    "no noise at all": (1.0, 1e30),
}


@pytest.mark.parametrize(("flux", "ivar"), HOSTILE.values(), ids=HOSTILE.keys())
def test_every_answer_is_finite_whatever_comes_in(network: SpectrumVAE, flux: float, ivar: float) -> None:
    found = answers(network, torch.full((2, PIXELS), flux), torch.full((2, PIXELS), ivar))

    assert list(found) == list(OUTPUTS)
    assert all(torch.isfinite(value).all() for value in found.values())
    torch.testing.assert_close(found["class_probabilities"].sum(dim=1), torch.ones(2))


def test_random_bit_patterns_give_finite_answers(network: SpectrumVAE) -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, (2, 8, PIXELS), dtype=np.uint32).view(np.float32)

    found = answers(network, torch.from_numpy(bits[0].copy()), torch.from_numpy(bits[1].copy()))

    assert all(torch.isfinite(value).all() for value in found.values())


def test_a_spectrum_without_information_gets_the_documented_answer(network: SpectrumVAE) -> None:
    flux, ivar = ordinary(2)
    ivar[1, 63:] = 0  # one usable pixel too few

    found = answers(network, flux, ivar)

    assert found["anomaly_score"][1] == 0
    assert found["chi2"][1] == 0
    assert found["latent"][1].abs().sum() == 0
    assert found["reconstruction"][1].abs().sum() == 0
    torch.testing.assert_close(found["class_probabilities"][1], torch.full((3,), 1 / 3))
    assert found["reconstruction"][0].abs().sum() > 0


def test_unusable_pixels_do_not_change_the_answer(network: SpectrumVAE) -> None:
    flux, ivar = ordinary()
    ivar[:, 100:130] = 0
    spoiled = flux.clone()
    spoiled[:, 100:130] = float("nan")

    for clean, dirty in zip(answers(network, flux, ivar).values(), answers(network, spoiled, ivar).values(), strict=True):
        torch.testing.assert_close(clean, dirty)


def test_flux_in_other_units_gives_the_same_latent_and_a_scaled_reconstruction(network: SpectrumVAE) -> None:
    flux, ivar = ordinary()

    one, hundred = answers(network, flux, ivar), answers(network, flux * 100, ivar / 100**2)

    torch.testing.assert_close(one["latent"], hundred["latent"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one["reconstruction"] * 100, hundred["reconstruction"], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(one["chi2"], hundred["chi2"], rtol=1e-3, atol=1e-4)


def test_a_row_does_not_depend_on_its_batch(network: SpectrumVAE) -> None:
    flux, ivar = ordinary(5)

    together, alone = answers(network, flux, ivar), answers(network, flux[3:4], ivar[3:4])

    for name in OUTPUTS:
        torch.testing.assert_close(together[name][3:4], alone[name], rtol=1e-4, atol=1e-4)


def test_the_exported_graph_answers_like_the_network_for_any_number_of_rows(network: SpectrumVAE) -> None:
    flux, ivar = ordinary(2)
    exported = export(network, {"flux": flux.numpy(), "ivar": ivar.numpy()}).module(check_guards=False)

    for rows in (1, 2, 7):
        flux, ivar = ordinary(rows, seed=9)
        with torch.inference_mode():
            found = exported(flux=flux, ivar=ivar)
        for name, value in answers(network, flux, ivar).items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


def test_binning_is_the_inverse_variance_mean() -> None:
    flux, ivar = torch.tensor([[1.0, 3.0, 9.0, 5.0, 2.0]]), torch.tensor([[1.0, 3.0, 0.0, 0.0, 4.0]])

    value, weight = binned(flux, ivar, width=2)

    assert value.tolist() == [[2.5, 0.0, 2.0]]
    assert weight.tolist() == [[4.0, 0.0, 4.0]]


def test_the_median_sees_only_the_mask() -> None:
    values, mask = torch.tensor([[5.0, 1.0, 9.0, 7.0], [1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0]]).bool()

    assert masked_median(values, mask).tolist() == [5.0, 0.0]


def test_a_spectrum_of_pure_noise_is_scaled_by_its_noise() -> None:
    flux = torch.randn(1, PIXELS, generator=torch.Generator().manual_seed(2))

    prepared = Preprocess(pixels=PIXELS, bin_pixels=4)(flux, torch.ones(1, PIXELS))

    assert float(prepared.scale_B1) == pytest.approx(2 / 128**0.5, rel=0.05)
    assert prepared.value_BL.abs().max() <= 30


def test_a_step_at_a_seam_raises_the_statistics_of_that_seam_and_arm_only() -> None:
    # Given a perfect model of pure noise, and one amplifier that stands half a sigma too high
    flux, ivar = torch.randn(1, PIXELS, generator=torch.Generator().manual_seed(4)), torch.ones(1, PIXELS)
    stepped = flux.clone()
    stepped[:, 3863:4900] += 0.5
    prepare = Preprocess(pixels=PIXELS, bin_pixels=4)

    # When both are judged
    before, after = (residual_features(prepare(f, ivar), torch.zeros(1, PIXELS), SMALL)[0] for f in (flux, stepped))

    # Then the coherent statistics see what pixel chi2 hardly notices
    change = dict(zip(feature_names(SMALL), (after - before).tolist(), strict=True))
    assert change["seam_3863"] > 0.5
    assert change["chi2_arm1_width128"] > 1
    assert change["chi2_arm1_width1"] < 0.2
    assert change["chi2_arm0_width128"] == pytest.approx(0, abs=1e-5)


def test_leftover_sky_lines_are_recognised_without_a_template() -> None:
    # Given noise with sky lines beyond 7500 Å, and the same with a part of the sky left in
    variance = torch.ones(1, PIXELS)
    variance[:, 5000:7700:40] = 9.0
    flux = torch.randn(1, PIXELS, generator=torch.Generator().manual_seed(5)) * variance.sqrt()
    failed = flux + 0.5 * (variance - 1)
    prepare = Preprocess(pixels=PIXELS, bin_pixels=4)
    column = feature_names(SMALL).index("sky_pattern")

    before, after = (residual_features(prepare(f, 1 / variance), torch.zeros(1, PIXELS), SMALL)[0, column] for f in (flux, failed))

    assert after - before > 1


def test_calibration_makes_a_statistic_that_follows_snr_flat() -> None:
    generator = torch.Generator().manual_seed(6)
    snr = 10 ** (2 * torch.rand(4000, generator=generator) - 0.5)
    statistic = (snr.log10() * 3 + 0.5 * torch.randn(4000, generator=generator)).unsqueeze(1)
    member = torch.ones(4000, 1)
    calibration = Calibration(1, groups=1)

    calibration.fit(statistic, snr, member, upper=0.84)
    flat = calibration(statistic, snr, member).squeeze(1)

    assert abs(float(torch.corrcoef(torch.stack([flat, snr.log10()]))[0, 1])) < 0.1
    assert float(flat.std()) == pytest.approx(1, abs=0.25)
    assert abs(float(flat.median())) < 0.1


def test_each_class_is_calibrated_against_its_own() -> None:
    statistic = torch.cat([torch.randn(500, 1), 10 + torch.randn(500, 1)])
    member = torch.eye(2).repeat_interleave(500, dim=0)
    calibration = Calibration(1, groups=2)

    calibration.fit(statistic, torch.ones(1000), member, upper=0.84)

    assert calibration(statistic, torch.ones(1000), member).median().abs() < 0.3


def test_weights_never_let_an_excess_lower_the_score() -> None:
    generator = torch.Generator().manual_seed(7)
    usual = torch.rand(300, 3, generator=generator)
    unusual = torch.rand(300, 3, generator=generator) + torch.tensor([2.0, 0.0, -1.0])

    weights = separating_weights(usual, unusual)

    assert (weights > 0).all()
    assert weights.argmax() == 0
    assert float(weights.sum()) == pytest.approx(1)


def test_injected_faults_change_flux_but_not_the_spectra_they_were_made_from() -> None:
    flux, ivar = (tensor.numpy().copy() for tensor in ordinary(30))
    ivar[:, 5000:7700:40] = 0.5  # sky lines: the sky fault needs a sky
    ivar[:, 50] = 0
    before = flux.copy()

    faulty, faulty_ivar = inject(flux, ivar, generator=np.random.default_rng(0))

    np.testing.assert_array_equal(flux, before)
    assert (np.abs(faulty - flux).max(axis=1) > 0).mean() > 0.9
    assert (faulty_ivar[:, 50] == 0).all()
    assert np.isfinite(faulty).all()
    assert np.isfinite(faulty_ivar).all()


def test_a_blend_is_as_noisy_as_its_weight_says() -> None:
    rows = 400
    data = Binned(value=torch.randn(rows, 200), weight=torch.ones(rows, 200), label=torch.zeros(rows, dtype=torch.long))

    value, weight = blended(data, torch.Generator().manual_seed(1))

    assert float((value * weight.sqrt()).std()) == pytest.approx(1, abs=0.03)


def test_augmentation_keeps_noise_and_weight_together_and_stars_in_place() -> None:
    label = torch.tensor([2] * 200)
    data = Binned(value=torch.randn(200, 300), weight=torch.ones(200, 300), label=label)

    more = augment(data, torch.Generator().manual_seed(1))

    assert float((more.value * more.weight.sqrt()).std()) == pytest.approx(1, abs=0.03)
    assert (more.weight < 1).any()
    quiet = more.weight[:, 0] == 1
    torch.testing.assert_close(more.value[quiet], data.value[quiet])


def test_rows_without_a_label_teach_no_class() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), requires_grad=True)
    label = torch.tensor([0, NO_LABEL, NO_LABEL, 2])

    class_loss(logits, label, torch.ones(3)).backward()

    assert logits.grad is not None
    assert (logits.grad[1:3] == 0).all()
    assert (logits.grad[0] != 0).any()
    assert class_loss(logits, torch.full((4,), NO_LABEL), torch.ones(3)).detach() == 0


def test_losses_have_their_known_values() -> None:
    assert divergence(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]
    value, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    assert float(misfit(value, weight, torch.zeros(1, 2), model_error=1e-9)) == pytest.approx(2.0)  # (1 * 2)² / 2, one bin counted
    assert class_balance(torch.tensor([0, 0, 0, 0, 1, 2])).argmin() == 0


def test_a_network_of_impossible_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        NetworkConfig(latent=0)
    with pytest.raises(ValueError, match="within 100 pixels"):
        NetworkConfig(pixels=100)
