import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.methods.byol import BYOL, BYOLConfig


def method(**settings) -> BYOL:
    torch.manual_seed(0)
    config = BYOLConfig(hidden_dim=16, output_dim=8, **settings)
    return BYOL(small_backbone(), config)


def test_loss__is_the_sum_of_two_distances_of_unit_vectors():
    byol = method().eval()
    batch = make_batch("byol", 6)
    with torch.no_grad():
        loss = float(byol(batch, progress(0)).loss)
        p = [byol.predictor(byol.projector(byol.backbone(v))) for v in batch.views]
        t = [byol.teacher_projector(byol.teacher_backbone(v)) for v in batch.views]
    expected = 0.0
    for i in range(6):
        for a, b in ((p[0][i], t[1][i]), (p[1][i], t[0][i])):
            expected += 2 - 2 * float(a @ b / (a.norm() * b.norm()))
    assert abs(loss - expected / 6) < 1e-5


def test_teacher__follows_fast_at_first_and_stops_at_the_end():
    for step, share in ((0, 0.1), (30, 0.0)):
        byol = method(momentum=0.9)
        before = byol.teacher_projector[0].weight.clone()
        with torch.no_grad():
            byol.projector[0].weight.add_(1.0)
        byol.after_update(progress(step, total=30))
        torch.testing.assert_close(byol.teacher_projector[0].weight, before + share)
