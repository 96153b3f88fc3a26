from tests.methods.objectives import small_backbone
from torch import nn

from scoutview.methods import build
from scoutview.methods.moco_v1 import MoCoV1Config
from scoutview.methods.moco_v2 import MoCoV2Config


def test_head__is_one_linear_layer():
    config = MoCoV1Config(queue_length=8)
    method = build("moco_v1", small_backbone(), config, dataset_size=64)
    assert [type(part) for part in method.projector] == [nn.Linear]


def test_defaults__differ_from_version_2_where_the_papers_do():
    one, two = MoCoV1Config(), MoCoV2Config()
    changed = {n for n in MoCoV2Config.model_fields if getattr(one, n) != getattr(two, n)}
    assert changed == {"views", "projector_layers", "temperature", "schedule"}
    assert one.views.first.intensity.blur_probability == 0.0
    assert one.schedule.milestones == (120, 160)
