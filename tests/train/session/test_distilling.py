"""The settings of a distillation: its own where nobody chooses others, and refusals of what it cannot do."""

import pytest
import torch

from krona_ops.errors import ConfigError
from krona_train.config import DataConfig, EmaConfig, PriorConfig
from krona_train.data.pictures import Dataset, Picture
from krona_train.objectives.guidance_config import GuidanceConfig
from krona_train.objectives.pairs_config import PairsConfig
from krona_train.objectives.score_matching_config import ScoreMatchingConfig
from krona_train.session.choices import Settings
from krona_train.session.distilling import distilling

PROMPTS = Dataset((), prompts=("a bird", "a cat"))
PICTURE = Picture(torch.zeros(8, 8, 3), "a bird", "bird.png")
MASKED = Picture(torch.zeros(8, 8, 3), "a bird", "bird.png", mask=torch.ones(8, 8))
KINDS = [GuidanceConfig(), ScoreMatchingConfig(), PairsConfig()]


def distilled(objective, settings, dataset=PROMPTS):
    return distilling(
        objective, dataset, steps=20, batch_size=2, learning_rate=0.0, seed=0, targets=None, settings=settings, preview_every=0
    )  # fmt: skip


@pytest.mark.parametrize("objective", KINDS, ids=lambda each: each.kind)
@pytest.mark.parametrize("prior", ["model", "pictures"])
def test_a_class_to_preserve_is_refused(objective, prior):
    with pytest.raises(ConfigError, match=r"no subject, and so no class.*Set prior to off in KronA Train Settings"):
        distilled(objective, Settings(prior=prior))


@pytest.mark.parametrize("objective", KINDS, ids=lambda each: each.kind)
@pytest.mark.parametrize(
    "dataset", [Dataset((PICTURE, MASKED)), Dataset((PICTURE,), settings=DataConfig(masks=True))], ids=["picture", "settings"]
)
@pytest.mark.parametrize("settings", [None, Settings()], ids=["alone", "with settings"])
def test_masks_are_refused(objective, dataset, settings):
    with pytest.raises(ConfigError, match=r"masks would do nothing.*turn masks off in KronA Dataset"):
        distilled(objective, settings, dataset)


@pytest.mark.parametrize("objective", KINDS, ids=lambda each: each.kind)
@pytest.mark.parametrize("prior", ["auto", "off"])
def test_other_settings_count_and_auto_is_no_prior(objective, prior):
    config = distilled(objective, Settings(prior=prior, ema=EmaConfig(0.5)))
    assert (config.objective, config.prior, config.ema) == (objective, PriorConfig(), EmaConfig(0.5))
    class_pictures = Dataset((PICTURE,), class_pictures=(PICTURE,))
    assert distilled(objective, Settings(prior=prior), class_pictures).prior == PriorConfig()
