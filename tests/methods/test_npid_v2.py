import math

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.base.errors import ConfigError
from scoutview.methods.npid_v2 import NPIDv2, NPIDv2Config
from scoutview.nn.precision import unit


def method(**settings) -> NPIDv2:
    torch.manual_seed(0)
    config = NPIDv2Config(hidden_dim=16, output_dim=8, negatives=12, **settings)
    return NPIDv2(small_backbone(), config, dataset_size=64)


def test_forward__is_info_nce_against_the_drawn_rows():
    npid, batch = method().double(), make_batch("npid_v2", 4, dtype=torch.float64)
    bank = npid.bank.rows.clone()
    loss = npid(batch, progress(2)).loss
    drawn = npid.bank.sample(12, step=2, avoid=batch.rows).tolist()
    assert not set(drawn) & set(batch.rows.tolist())
    expected = 0.0
    for q, row in zip(npid._new[0][1], batch.rows.tolist(), strict=True):
        own, *others = (math.exp(float(q @ bank[r]) / 0.1) for r in (row, *drawn))
        expected -= math.log(own / (own + sum(others)))
    assert float(loss.detach()) == pytest.approx(expected / 4, rel=1e-10)


def test_after_update__moves_half_of_the_way():
    npid = method()
    before = npid.bank.rows.clone()
    npid(make_batch("npid_v2", 4), progress(0))
    new = npid._new[0][1]
    npid.after_update(progress(0))
    torch.testing.assert_close(npid.bank.rows[:4], unit((before[:4] + new) / 2))


def test_preflight__lowers_the_default_and_refuses_what_the_user_wrote():
    config, notes = NPIDv2Config().preflight(4708, 256)
    assert config.negatives == 4452
    assert "16384" in notes[0]
    with pytest.raises(ConfigError, match="at most 4452"):
        NPIDv2Config(negatives=5000).preflight(4708, 256)
