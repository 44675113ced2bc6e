"""What each masking and each target promises."""

from __future__ import annotations

import pytest
import torch

from tests.model.test_mae import colour, small
from usfmae.model.draws import batch_seed, normal, uniform
from usfmae.model.mae import MAE
from usfmae.model.masking import MASKINGS
from usfmae.model.masking.block import SIDE
from usfmae.model.masking.drawn import LEVELS, SPREAD
from usfmae.model.masking.frequency import band_stop
from usfmae.model.masking.sector import tissue
from usfmae.model.targets import TARGETS
from usfmae.train.objective import Objective
from usfmae.train.recipe import ObjectiveRecipe

SEEDS = torch.arange(64) * 7919 - 100
WIDE = small(img_size=96)  # 12 x 12 patches


def hidden_of(noise: torch.Tensor, keep: int) -> torch.Tensor:
    """bool [B,N]"""
    order = noise.argsort(dim=1, stable=True)
    return torch.ones_like(noise, dtype=torch.bool).scatter(1, order[:, :keep], False)


def images(config: object = WIDE) -> torch.Tensor:
    side = config.img_size  # type: ignore[attr-defined]
    return torch.randn(64, 1, side, side, generator=torch.Generator().manual_seed(1))


def test_uniform_numbers_are_uniform_and_independent() -> None:
    u = uniform(SEEDS, 4096, purpose=1)
    assert u.dtype == torch.float32 and u.min() >= 0 and u.max() < 1
    assert abs(u.mean().item() - 0.5) < 0.003 and abs(u.var().item() - 1 / 12) < 0.001
    counts = torch.histc(u, bins=64, min=0, max=1)
    chi = ((counts - u.numel() / 64).square() / (u.numel() / 64)).sum()
    assert chi < 110  # 63 degrees of freedom: beyond the 99.97 % point
    other = uniform(SEEDS, 4096, purpose=2)
    for a, b in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1]), (u, other)):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()) < 0.01


def test_numbers_belong_to_the_sample_not_to_the_batch() -> None:
    assert torch.equal(uniform(SEEDS, 50, 1)[10:20], uniform(SEEDS[10:20], 50, 1))
    n = normal(SEEDS, 4096, purpose=1)
    assert abs(n.mean().item()) < 0.01 and abs(n.var().item() - 1) < 0.01


def test_batch_seed_depends_on_each_part() -> None:
    seeds = {batch_seed(s, e, n) for s in range(3) for e in range(3) for n in (0, 32, 64)}
    assert len(seeds) == 27 and min(seeds) >= 0


@pytest.mark.parametrize("name", sorted(MASKINGS))
def test_every_masking_hides_the_same_number_and_does_not_depend_on_the_batch(name: str) -> None:
    x = images()
    whole = MASKINGS[name](x, WIDE, SEEDS, 3)
    part = MASKINGS[name](x[5:9], WIDE, SEEDS[5:9], 3)
    assert whole.noise.shape == (64, 144) and whole.num_keep == part.num_keep
    hidden = hidden_of(whole.noise, whole.num_keep)
    assert torch.equal(hidden[5:9], hidden_of(part.noise, part.num_keep))
    assert (hidden.sum(1) == 144 - whole.num_keep).all()
    assert len({tuple(row.tolist()) for row in hidden}) == 64  # no two samples alike
    assert (
        hidden.float().mean(0) - hidden.float().mean()
    ).abs().max() < 0.3  # no place always hidden or seen


def test_random_hides_exactly_the_ratio() -> None:
    for ratio, keep in ((0.75, 36), (0.5, 72), (0.6, 57)):
        assert MASKINGS["random"](images(), WIDE.with_(mask_ratio=ratio), SEEDS, 0).num_keep == keep


def test_drawn_ratio_varies_within_its_spread_and_is_one_for_the_batch() -> None:
    config = WIDE.with_(mask_ratio=0.7)
    keeps = {
        MASKINGS["drawn"](images(), config, SEEDS, batch_seed(0, 0, 32 * i)).num_keep for i in range(200)
    }
    assert len(keeps) == LEVELS
    assert min(keeps) == int(144 * (1 - 0.7 - SPREAD)) and max(keeps) == pytest.approx(
        144 * (1 - 0.7 + SPREAD), abs=1
    )


@pytest.mark.parametrize("ratio", [0.05, 0.95])
def test_drawn_ratio_leaves_a_patch_seen_and_one_hidden(ratio: float) -> None:
    config = WIDE.with_(mask_ratio=ratio)
    for level in range(LEVELS):
        assert 1 <= MASKINGS["drawn"](images(), config, SEEDS, level).num_keep <= 143


def test_block_hides_whole_squares() -> None:
    hiding = MASKINGS["block"](images(), WIDE, SEEDS, 0)
    hidden = hidden_of(hiding.noise, hiding.num_keep).view(64, 1, 12, 12).float()
    scattered = hidden_of(MASKINGS["random"](images(), WIDE, SEEDS, 0).noise, 36).view(64, 1, 12, 12).float()

    def edges(mask: torch.Tensor) -> float:
        return (
            (mask[..., 1:] != mask[..., :-1]).sum() + (mask[..., 1:, :] != mask[..., :-1, :]).sum()
        ).item()

    assert edges(hidden) < 0.55 * edges(scattered)
    seen = torch.nn.functional.avg_pool2d(1 - hidden, SIDE, 1)
    assert (seen.amax((1, 2, 3)) == 1).all()  # a whole square is visible in every image
    columns = (hidden[..., 1:] != hidden[..., :-1]).sum((0, 1, 2))  # where squares end
    by_shift = torch.stack([columns[k::SIDE].float().mean() for k in range(SIDE)])
    assert by_shift.min() > 0.5 * by_shift.max()  # the lattice is shifted
    assert 0.2 < (hiding.noise % 1).std() < 0.4  # of a square that is hidden in part, any patches may be


def fan(config: object = WIDE) -> torch.Tensor:
    """Images [64,1,S,S] that are black outside a fan, and noisy tissue inside."""
    side = config.img_size  # type: ignore[attr-defined]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = (x - side / 2).abs() < 0.1 * side + 0.35 * y
    grey = torch.rand(64, 1, side, side, generator=torch.Generator().manual_seed(2)) * inside
    return (grey - 0.2) / 0.2


def test_sector_never_scores_background_and_hides_the_ratio_of_tissue() -> None:
    x = fan()
    hiding = MASKINGS["sector"](x, WIDE, SEEDS, 0)
    patches = MAE(WIDE).patchify(x * 0.2 + 0.2)
    black = patches.amax(-1) == 0
    assert hiding.scored is not None and not (hiding.scored & black).any() and black.float().mean() > 0.2
    hidden = hidden_of(hiding.noise, hiding.num_keep)
    inside = tissue(x, WIDE)
    share = (hidden & inside).sum(1) / inside.sum(1)
    assert (share - 0.75).abs().max() < 1.5 / inside.sum(1).min()
    random_share = (hidden_of(MASKINGS["random"](x, WIDE, SEEDS, 0).noise, 36) & inside).sum(1) / inside.sum(
        1
    )
    assert random_share.std() > 3 * share.std()


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_tissue_is_told_from_the_image_not_from_what_is_made_of_it(target: str) -> None:
    """Noise in the black frame is no tissue, nor is what a blur carries there."""
    x = fan()
    objective = Objective(ObjectiveRecipe(masking="sector", target=target), WIDE)
    assert torch.equal(objective.arguments(x, SEEDS, 0)["scored"], tissue(x, WIDE))


def test_a_band_is_removed_and_the_rest_is_worsened() -> None:
    x = images()
    arguments = Objective(ObjectiveRecipe(masking="frequency", target="deblur"), WIDE).arguments(x, SEEDS, 0)
    stopped = MASKINGS["frequency"](x, WIDE, SEEDS, 0).seen
    assert stopped is not None and torch.equal(arguments["seen"], TARGETS["deblur"](stopped, SEEDS))
    plain = Objective(ObjectiveRecipe(), WIDE).arguments(x, SEEDS, 0)
    assert plain["seen"] is None and plain["scored"] is None


def test_sector_of_a_dark_image_scores_all_of_it() -> None:
    dark = torch.full((2, 1, 96, 96), -1.0)
    assert tissue(dark, WIDE).all()
    hiding = MASKINGS["sector"](dark, WIDE, SEEDS[:2], 0)
    assert torch.isfinite(MAE(WIDE)(dark, hiding.noise, num_keep=hiding.num_keep, scored=hiding.scored).loss)


def test_band_stop_removes_its_band_and_nothing_else() -> None:
    x = images()[:4]
    low = torch.tensor([0.1, 0.3, 0.5, 0.7])
    y = band_stop(x, low, 0.2)
    fy, fx = torch.fft.fftfreq(96)[:, None], torch.fft.rfftfreq(96)[None]
    radius = 2 * (fy.square() + fx.square()).sqrt()
    for i in range(4):
        band = (radius >= low[i]) & (radius < low[i] + 0.2)
        before, after = torch.fft.rfft2(x[i, 0]), torch.fft.rfft2(y[i, 0])
        assert after[band].abs().max() < 1e-3 < before[band].abs().mean()
        torch.testing.assert_close(after[~band], before[~band], atol=1e-3, rtol=1e-4)


def test_frequency_masking_changes_what_is_seen_not_the_target() -> None:
    x = images()
    hiding = MASKINGS["frequency"](x, WIDE, SEEDS, 0)
    assert hiding.seen is not None and hiding.seen.shape == x.shape
    assert 0.5 < (hiding.seen.var() / x.var()).item() < 0.999


def test_restoring_targets_worsen_the_input_each_in_its_way() -> None:
    x = images()
    assert TARGETS["pixels"](x, SEEDS) is x and TARGETS["normalised"](x, SEEDS) is x
    blurred, noisy = TARGETS["deblur"](x, SEEDS), TARGETS["denoise"](x, SEEDS)
    step = (x[..., 1:] - x[..., :-1]).abs().mean()
    assert (blurred[..., 1:] - blurred[..., :-1]).abs().mean() < 0.5 * step
    flat = torch.full_like(x, 0.7)
    torch.testing.assert_close(TARGETS["deblur"](flat, SEEDS), flat)
    sigma = (noisy - x).flatten(1).std(1)
    assert sigma.min() > 0.09 and sigma.max() < 0.51 and sigma.std() > 0.05
    assert torch.equal(TARGETS["deblur"](x[3:5], SEEDS[3:5]), blurred[3:5])
    assert torch.equal(TARGETS["denoise"](x[3:5], SEEDS[3:5]), noisy[3:5])


def test_the_strength_of_the_noise_knows_nothing_of_the_noise() -> None:
    noise = TARGETS["denoise"](torch.zeros(1024, 1, 16, 16), torch.arange(1024)).flatten(1)
    sigma = noise.std(1)
    first = noise[:, 0].abs() / sigma
    assert abs(torch.corrcoef(torch.stack([sigma, first]))[0, 1].item()) < 0.12


def test_targets_take_colour_too() -> None:
    x = torch.randn(4, 3, 48, 48)
    for target in TARGETS.values():
        assert target(x, SEEDS[:4]).shape == x.shape
    hiding = MASKINGS["sector"](x, colour(), SEEDS[:4], 0)
    assert hiding.scored is not None and hiding.scored.shape == (4, 36)
