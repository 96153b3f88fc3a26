import math
from itertools import pairwise

import pytest
import torch
from tests.golden.case import Vectors
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.base.errors import ConfigError
from scoutview.methods.insdis import InsDis, InsDisConfig
from scoutview.nn.precision import unit


def method(images=64, **settings) -> InsDis:
    torch.manual_seed(0)
    config = InsDisConfig(output_dim=8, **{"negatives": 8, **settings})
    return InsDis(small_backbone(), config, dataset_size=images)


def test_loss__is_the_paper_nce_with_the_proximal_term():
    """Written out for two images and three drawn negatives, with Z of this first batch."""
    torch.manual_seed(0)
    config = InsDisConfig(output_dim=4, proximal_weight=30.0)
    insdis = InsDis(Vectors(4), config, dataset_size=10).double()
    query = unit(torch.randn(2, 4, dtype=torch.float64))
    rows, drawn = torch.tensor([3, 8]), torch.tensor([0, 5, 5])
    bank, t = insdis.bank.rows.clone(), config.temperature
    scores = [
        [math.exp(float(q @ bank[r]) / t) for r in (row, *drawn.tolist())]
        for q, row in zip(query, rows.tolist(), strict=True)
    ]
    z = 10 * sum(map(sum, scores)) / 8
    expected = 0.0
    for (own, *others), q, row in zip(scores, query, rows, strict=True):
        noise = 3 / 10
        expected -= math.log(own / z / (own / z + noise))
        expected -= sum(math.log(noise / (e / z + noise)) for e in others)
        expected += 30.0 * float((q - bank[row]).square().sum())
    loss, logs = insdis.loss(query, rows, drawn)
    assert float(loss) == pytest.approx(expected / 2, rel=1e-10)
    assert float(logs["log_z"]) == pytest.approx(math.log(z), rel=1e-10)


def test_forward__draws_no_image_of_the_batch(monkeypatch):
    insdis, seen = method(images=12, negatives=500), []
    inner = insdis.bank.sample

    def sample(*arguments, **named):
        seen.append(inner(*arguments, **named))
        return seen[-1]

    monkeypatch.setattr(insdis.bank, "sample", sample)
    for step in range(3):
        insdis(make_batch("insdis", 8), progress(step))
    assert all(set(drawn.tolist()) == {8, 9, 10, 11} for drawn in seen)
    assert not torch.equal(seen[0], seen[1])


def test_chance_loss__is_the_nce_of_images_that_look_alike():
    insdis = method(negatives=16)
    alike = unit(torch.ones(4, insdis.bank.rows.shape[1]))
    insdis.bank.rows.copy_(alike[:1].expand_as(insdis.bank.rows))
    loss, logs = insdis.loss(alike, torch.arange(4), torch.arange(8, 24), measure=True)
    assert float(logs["chance_loss"]) == pytest.approx(math.log(17) + 16 * math.log(17 / 16))
    assert float(loss) == pytest.approx(float(logs["chance_loss"]), rel=1e-4)


@pytest.mark.parametrize("loss", ["nce", "softmax_bank", "full_softmax"])
def test_after_update__overwrites_the_rows_of_the_batch(loss):
    insdis = method(loss=loss)
    before = insdis.bank.rows.clone()
    batch = make_batch("insdis", 4)
    insdis(batch, progress(0)).loss.backward()
    assert torch.equal(insdis.bank.rows, before)
    features = insdis._new[0][1]
    insdis.after_update(progress(0))
    torch.testing.assert_close(insdis.bank.rows[:4], features)
    assert torch.equal(insdis.bank.rows[4:], before[4:])


def test_accumulated_parts__are_all_stored_and_share_one_z():
    insdis = method()
    insdis(make_batch("insdis", 4, seed=0), progress(0))
    first = insdis.constant._measured.clone()
    insdis(make_batch("insdis", 4, seed=1), progress(0))
    assert torch.equal(insdis.constant._measured, first)
    insdis.after_update(progress(0))
    assert torch.equal(insdis.constant.log_z, first)
    assert not insdis._new


@pytest.mark.parametrize("epochs", [0, 2])
def test_z__is_measured_anew_until_its_epochs_are_over(epochs):
    insdis, seen = method(z_epochs=epochs), []
    for epoch in range(5):
        insdis(make_batch("insdis", 4, seed=epoch), progress(epoch))  # one step an epoch
        insdis.after_update(progress(epoch))
        seen.append(float(insdis.constant.log_z))
    changes = [a != b for a, b in pairwise(seen)]
    assert changes == [epoch + 1 < epochs for epoch in range(4)]


def test_preflight__warns_of_a_z_from_random_rows():
    assert "runs away" in InsDisConfig(z_epochs=0).preflight(4708, 256)[1][0]
    assert InsDisConfig().preflight(4708, 256)[1] == []


def test_chance_loss__is_what_equal_rows_give():
    for loss, expected in (("softmax_bank", math.log(9)), ("full_softmax", math.log(64))):
        insdis = method(loss=loss)
        insdis.bank.rows.copy_(insdis.bank.rows[0].clone())
        out = insdis(make_batch("insdis", 4), progress(0))
        assert float(out.loss.detach()) == pytest.approx(expected, rel=1e-5)
        assert float(out.logs["chance_loss"]) == pytest.approx(expected, rel=1e-6)


def test_preflight__keeps_negatives_outside_the_batch():
    config, notes = InsDisConfig().preflight(300, 64)
    assert config.negatives == 236
    assert "4096" in notes[0]
    with pytest.raises(ConfigError, match="at most 236"):
        InsDisConfig(negatives=300).preflight(300, 64)
    with pytest.raises(ConfigError, match="batch_size must be at most 63"):
        InsDisConfig().preflight(64, 64)
    assert InsDisConfig(loss="full_softmax").preflight(64, 64)[1] == []


def test_preflight__refuses_the_whole_bank_in_shards():
    with pytest.raises(ConfigError, match="shard_bank"):
        InsDisConfig(loss="full_softmax", shard_bank=True).preflight(4708, 256)


def test_one_view__is_all_that_is_needed():
    assert len(InsDisConfig().views.specs(2)) == 1
    out = method()(make_batch("insdis", 4), progress(0))
    assert out.features.shape == (4, 16)
