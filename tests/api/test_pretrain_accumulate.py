from tests.cohorts import TINY, radiograph_cohort
from tests.methods.objectives import small_config

from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.methods import config_class
from scoutview.results.run import RunFolder


def test_pretrain__fits_negatives_to_the_parts_that_a_batch_is_computed_in(tmp_path):
    cohort = radiograph_cohort(tmp_path, {"train": 32})
    views = small_config("npid_v2").views
    settings = config_class("npid_v2")(views=views, hidden_dim=8, output_dim=8)
    config = PretrainConfig(
        samples=16,
        batch_size=16,
        accumulate=4,
        backbone=TINY,
        accelerator="cpu",
        probe_every=None,
        progress=False,
    )
    run = RunFolder.open(
        pretrain(cohort, "npid_v2", tmp_path / "run", config=config, settings=settings)
    )
    assert run.config["method"]["negatives"] == 32 - 16 // 4
