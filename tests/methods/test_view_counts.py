import pytest

from scoutview.base.errors import ConfigError
from scoutview.methods import config_class
from scoutview.views.policy import CropsAndPatches, MultiCrop

ONE = MultiCrop(counts=(1,), sizes=(96,), scales=((0.2, 1.0),))
TWO = MultiCrop(counts=(2,), sizes=(96,), scales=((0.2, 1.0),))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("insdis", {"views": TWO}, "must make 1 of each image.* got 2, set views.counts"),
        ("npid_v2", {"views": TWO}, "must make 1 of each image.* got 2, set views.counts"),
        ("npid_v2_interclr", {"views": TWO}, "must make 1 of each image"),
        ("pirl", {"views": CropsAndPatches(crops=2)}, "must make 10 .* got 11, set views.crops"),
        ("infomin", {"views": CropsAndPatches(crops=1)}, "must make 11 .* got 10, set views.crops"),
        ("deepcluster_v2", {"views": ONE}, "memory_views .* from 0 to 0"),
        ("deepcluster_v2", {"memory_views": (0, 8)}, r"got \(0, 8\)"),
        ("sela_v2", {"memory_views": (-1,)}, "memory_views .* from 0 to 7"),
        ("swav", {"assigned_views": (0, 9)}, "assigned_views .* from 0 to 7"),
        ("swav", {"assigned_views": ()}, "assigned_views"),
        ("swav", {"assigned_views": (1, 1)}, "different views"),
    ],
)
def test_preflight__refuses_views_that_do_not_fit_the_method(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        config_class(name)(**changes).preflight(4708, 64)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("insdis", {"views": ONE}),
        ("infomin", {"views": CropsAndPatches(crops=2, grid=2)}),
        ("sela_v2", {"memory_views": (7,)}),
        ("swav", {"assigned_views": (0,), "views": TWO}),
    ],
)
def test_preflight__takes_views_that_fit(name, changes):
    written = config_class(name)(**changes)
    config, _ = written.preflight(4708, 64)
    assert config.views == written.views
