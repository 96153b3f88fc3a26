import numpy as np
import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.methods.vicreg import VICReg, VICRegConfig


def method(**settings) -> VICReg:
    torch.manual_seed(0)
    return VICReg(small_backbone(), VICRegConfig(hidden_dim=16, output_dim=8, **settings))


@pytest.mark.parametrize(
    ("form", "invariance_share", "variance_share"),
    [("equations", 1.0, 1.0), ("algorithm", 1 / 8, 1.0), ("code", 1 / 8, 0.5)],
)
def test_loss__is_the_weighted_sum_of_its_three_terms(form, invariance_share, variance_share):
    vicreg, batch = method(loss_form=form).double().eval(), make_batch("vicreg", 6)
    batch = make_batch("vicreg", 6, dtype=torch.float64)
    with torch.no_grad():
        loss = float(vicreg(batch, progress(0)).loss)
        z = [vicreg.projector(vicreg.backbone(view)).numpy() for view in batch.views]
    invariance = np.mean(((z[0] - z[1]) ** 2).sum(axis=1))
    variance = covariance = 0.0
    for one in z:
        c = np.cov(one, rowvar=False)
        variance += np.maximum(0, 1 - np.sqrt(np.diag(c) + 1e-4)).mean()
        covariance += ((c - np.diag(np.diag(c))) ** 2).sum() / 8
    expected = 25 * invariance_share * invariance + 25 * variance_share * variance + covariance
    assert loss == pytest.approx(expected, rel=1e-9)


def test_preflight__names_a_projector_out_of_proportion():
    _, notes = VICRegConfig().preflight(1000, 256)
    assert "output_dim 8192 is more than the 1000" in notes[1]
    assert VICRegConfig(output_dim=512, loss_form="code").preflight(1000, 256)[1] == []


def test_preflight__names_a_distance_that_outweighs_the_variance():
    _, notes = VICRegConfig(output_dim=512).preflight(1000, 256)
    assert "set loss_form to 'code', or invariance to 0.049" in notes[0]
    assert VICRegConfig(output_dim=512, invariance=0.049).preflight(1000, 256)[1] == []
