import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.methods.simsiam import SimSiam, SimSiamConfig
from scoutview.train.optimizers import build_optimizer, set_rates


def method(**settings) -> SimSiam:
    torch.manual_seed(0)
    return SimSiam(small_backbone(), SimSiamConfig(hidden_dim=16, output_dim=8, **settings))


def test_loss__is_the_mean_negative_cosine_of_both_directions():
    simsiam, batch = method().eval(), make_batch("simsiam", 6)
    with torch.no_grad():
        loss = float(simsiam(batch, progress(0)).loss)
        z = [simsiam.projector(simsiam.backbone(view)) for view in batch.views]
        p = [simsiam.predictor(one) for one in z]
    total = 0.0
    for i in range(6):
        for a, b in ((p[0][i], z[1][i]), (p[1][i], z[0][i])):
            total -= float(a @ b / (a.norm() * b.norm())) / 2
    assert abs(loss - total / 6) < 1e-6


def test_targets__send_no_gradient_into_the_projector():
    simsiam, batch = method(), make_batch("simsiam", 6)
    with torch.no_grad():
        for parameter in simsiam.predictor.parameters():
            parameter.zero_()  # predictions say nothing: only targets could move the projector
    simsiam(batch, progress(0)).loss.backward()
    assert all(float(p.grad.abs().max()) == 0 for p in simsiam.projector.parameters())


def test_predictor__keeps_its_rate_while_the_others_follow_the_schedule():
    for constant in (True, False):
        simsiam = method(constant_predictor_rate=constant)
        config = SimSiamConfig().optimizer
        optimizer = build_optimizer(simsiam, config, batch_size=256)
        set_rates(optimizer, config, share=0.25, fraction=0.5)
        rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
        assert {rate[id(p)] for p in simsiam.backbone.parameters()} == {0.0125}
        assert {rate[id(p)] for p in simsiam.projector.parameters()} == {0.0125}
        expected = 0.05 if constant else 0.0125
        assert {rate[id(p)] for p in simsiam.predictor.parameters()} == {expected}
