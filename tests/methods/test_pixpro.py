import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.base.errors import ConfigError
from scoutview.methods.pixpro import PixPro, PixProConfig
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.nn.losses.places import same_place, view_frame
from scoutview.views.policy import TwoCrops


def method(**settings) -> PixPro:
    torch.manual_seed(0)
    config = PixProConfig(hidden_dim=16, output_dim=8, **settings)
    return PixPro(small_backbone(), config)


def normalised(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def test_loss__is_the_papers_on_the_real_feature_map():
    """Equation 5 of arXiv:2011.10043: y_i of one view meets x'_j of the other, both ways."""
    pixpro = method()
    batch = make_batch("pixpro", 4)
    shifted = batch.geometry[1].clone()
    shifted[:, :, 2] += torch.tensor([[9.0, -5.0]])  # so that only some cells meet
    batch = replace(batch, geometry=[batch.geometry[0], shifted])
    pixpro.eval()
    loss = float(pixpro(batch, progress(0)).loss.detach())
    with torch.no_grad():
        y, x = [], []
        for view in batch.views:
            last = pixpro.backbone.feature_maps(view)[-1]  # (4, C, 4, 4)
            cells = last.flatten(2).transpose(1, 2)
            z = pixpro.place_projector(cells.flatten(0, 1)).view(4, 16, 8)
            alike = (normalised(z) @ normalised(z).transpose(1, 2)).clamp_min(0) ** 2
            y.append(normalised(alike @ pixpro.propagation.transform(z)))
            teacher = pixpro.teacher_backbone.feature_maps(view)[-1].flatten(2).transpose(1, 2)
            x.append(normalised(pixpro.teacher_projector(teacher.flatten(0, 1)).view(4, 16, 8)))
    frames = [view_frame(a, (32, 32)) for a in batch.geometry]
    same = same_place(*frames, (4, 4), (4, 4), threshold=0.7)
    assert 0 < int(same[0].sum()) < 16 * 16
    total = 0.0
    for image in range(4):
        pairs = [(i, j) for i in range(16) for j in range(16) if same[image, i, j]]
        for i, j in pairs:
            total -= float(y[0][image, i] @ x[1][image, j] + y[1][image, j] @ x[0][image, i]) / len(
                pairs
            )
    assert loss == pytest.approx(total / 4, rel=1e-4)


def test_views_without_overlap__teach_nothing_and_are_logged():
    batch = make_batch("pixpro", 4)
    far = batch.geometry[1].clone()
    far[:2, :, 2] += 1000.0
    out = method()(replace(batch, geometry=[batch.geometry[0], far]), progress(0))
    assert float(out.logs["overlapping_images"]) == 0.5
    alone = method()(replace(batch, geometry=[batch.geometry[0], far + 1000.0]), progress(0))
    assert float(alone.loss.detach()) == 0.0


def test_options__double_the_loss_and_add_instances():
    batch = make_batch("pixpro", 4)
    plain = float(method()(batch, progress(0)).loss.detach())
    doubled = float(method(doubled_loss=True)(batch, progress(0)).loss.detach())
    assert doubled == pytest.approx(2 * plain, rel=1e-5)
    both = method(instance_weight=1.0)
    out = both(batch, progress(0))
    with torch.no_grad():  # each view predicts the teacher's other view
        asked = [
            both.instance_predictor(both.instance_projector(both.backbone(v))) for v in batch.views
        ]
        told = [both.teacher_instance_projector(both.teacher_backbone(v)) for v in batch.views]
        crossed = zip(asked, reversed(told), strict=True)
        instance = sum(float((2 - 2 * F.cosine_similarity(a, t)).mean()) for a, t in crossed)
    assert float(out.loss.detach()) - plain == pytest.approx(instance, rel=1e-4)
    out.loss.backward()
    assert both.instance_predictor[0].weight.grad.abs().max() > 0
    assert method(normalise_values=True)(batch, progress(0)).loss.item() != pytest.approx(plain)


def test_teacher__follows_the_cosine_or_a_constant():
    for schedule, expected in (("cosine", 0.995), ("constant", 0.99)):
        pixpro = method(momentum_schedule=schedule)
        before = pixpro.teacher_projector[0].weight.clone()
        with torch.no_grad():
            pixpro.place_projector[0].weight.add_(1.0)
        pixpro.after_update(progress(15))
        moved = (pixpro.teacher_projector[0].weight - before).mean()
        assert float(moved) == pytest.approx(1 - expected, rel=1e-3)


def test_pixpro__refuses_a_map_of_one_cell_and_says_so():
    backbone = build_backbone(BackboneConfig(name="resnet10t"))
    config = PixProConfig(views=TwoCrops(size=28))
    with pytest.raises(ConfigError, match="1 x 1 map in a network of stride 32"):
        PixPro(backbone, config)


def test_preflight__warns_of_crops_that_seldom_meet():
    _, notes = PixProConfig(views=TwoCrops(scale=(0.05, 0.2))).preflight(1000, 256)
    assert "seldom overlap" in notes[0]


def test_collapsed_places__show_in_the_log_that_the_monitor_watches():
    pixpro = method()
    logs = pixpro(make_batch("pixpro", 8), progress(0)).logs
    assert float(logs["projection_std"]) > 0.3
    with torch.no_grad():
        pixpro.place_projector[-1].weight.zero_()
        pixpro.place_projector[-1].bias.fill_(1.0)
    logs = pixpro(make_batch("pixpro", 8), progress(0)).logs
    assert math.isclose(float(logs["projection_std"]), 0.0, abs_tol=1e-4)
