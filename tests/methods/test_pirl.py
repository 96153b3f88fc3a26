import math

import pytest
import torch
from tests.golden.case import Vectors
from tests.methods.objectives import make_batch, part_of, progress, small_backbone
from tests.processes import run_ranks

from scoutview.base.errors import ConfigError
from scoutview.methods.pirl import PIRL, PIRLConfig
from scoutview.nn.gather import rank, world_size
from scoutview.nn.losses.nce import bank_softmax
from scoutview.nn.precision import unit


def method(**settings) -> PIRL:
    torch.manual_seed(0)
    config = PIRLConfig(output_dim=8, negatives=12, **settings)
    return PIRL(small_backbone(), config, dataset_size=64)


def paper_loss(query, own, negatives, temperature):
    """Equations 4 and 5 of arXiv:1912.01991 for one image."""
    positive, *others = (math.exp(float(query @ v) / temperature) for v in (own, *negatives))
    total = positive + sum(others)
    return -math.log(positive / total) - sum(math.log(1 - e / total) for e in others)


def test_losses__are_the_paper_equations_in_both_branches():
    torch.manual_seed(0)
    pirl = PIRL(Vectors(4), PIRLConfig(output_dim=4, temperature=0.5), dataset_size=10).double()
    image, jigsaw = (unit(torch.randn(2, 4, dtype=torch.float64)) for _ in range(2))
    rows, drawn = torch.tensor([3, 8]), torch.tensor([0, 5, 9])
    bank = pirl.bank.rows
    of_image, of_jigsaw = pirl.losses(image, jigsaw, rows, drawn)
    for query, loss in ((image, of_image), (jigsaw, of_jigsaw)):
        by_hand = [
            paper_loss(q, bank[r], bank[drawn], 0.5) for q, r in zip(query, rows, strict=True)
        ]
        assert float(loss) == pytest.approx(sum(by_hand) / 2, rel=1e-10)


def test_jigsaw_weight__mixes_the_branches():
    batch = make_batch("pirl", 4)
    for weight in (0.0, 0.3, 1.0):
        out = method(jigsaw_weight=weight)(batch, progress(0))
        image, jigsaw = float(out.logs["image_loss"]), float(out.logs["jigsaw_loss"])
        expected = (1 - weight) * image + weight * jigsaw
        assert float(out.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_bank__remembers_the_image_and_not_its_patches():
    batch, other = make_batch("pirl", 4), make_batch("pirl", 4)
    for patch in other.views[1:]:
        patch.normal_(generator=torch.Generator().manual_seed(0))
    rows = []
    for given in (batch, other):
        pirl = method().eval()
        pirl(given, progress(0))
        pirl.after_update(progress(0))
        rows.append(pirl.bank.rows)
    assert torch.equal(*rows)


def test_order_of_patches__reaches_the_loss():
    batch = make_batch("pirl", 4)
    pirl = method().eval()
    first = float(pirl(batch, progress(0)).logs["jigsaw_loss"])
    batch.views[1:] = batch.views[:0:-1]
    assert float(pirl(batch, progress(0)).logs["jigsaw_loss"]) != pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("loss", ["nce", "softmax"])
def test_chance_loss__is_what_equal_rows_give(loss):
    pirl = method(loss=loss)
    pirl.bank.rows.copy_(pirl.bank.rows[0].clone())
    out = pirl(make_batch("pirl", 4), progress(0))
    assert float(out.loss.detach()) == pytest.approx(float(out.logs["chance_loss"]), rel=1e-5)


def test_updated_memory__is_what_the_bank_will_hold_when_an_image_comes_twice():
    config = PIRLConfig(output_dim=4, negatives=2, loss="softmax", jigsaw_memory="updated")
    pirl = PIRL(Vectors(4), config, dataset_size=10).double()
    image, jigsaw = (unit(torch.randn(3, 4, dtype=torch.float64)) for _ in range(2))
    rows, drawn = torch.tensor([3, 8, 3]), torch.tensor([0, 3])
    _, of_jigsaw = pirl.losses(image, jigsaw, rows, drawn)
    pirl.after_update(progress(0))
    own, negatives = pirl.bank.rows[rows], pirl.bank.rows[drawn]
    expected = bank_softmax(jigsaw, own, negatives, temperature=config.temperature)
    torch.testing.assert_close(of_jigsaw, expected)


def branch_losses() -> list[float]:
    """Both branches with the published bank, on the part of this process."""
    pirl = method(loss="constant_nce", jigsaw_memory="updated").double().eval()
    batch = make_batch("pirl", 4, dtype=torch.float64)
    logs = pirl(part_of(batch, rank(), world_size()), progress(0)).logs
    return [float(logs["image_loss"]), float(logs["jigsaw_loss"])]


@pytest.mark.ddp
def test_two_processes__average_to_the_branches_of_one():
    found = torch.tensor(run_ranks(branch_losses, 2), dtype=torch.float64).mean(dim=0)
    torch.testing.assert_close(found, torch.tensor(branch_losses(), dtype=torch.float64))


def test_preflight__lowers_the_default_and_refuses_what_the_user_wrote():
    config, notes = PIRLConfig().preflight(4708, 256)
    assert config.negatives == 4452
    assert "32000" in notes[0]
    with pytest.raises(ConfigError, match="at most 4452"):
        PIRLConfig(negatives=5000).preflight(4708, 256)


def test_preflight__warns_of_a_constant_measured_on_random_rows():
    _, notes = PIRLConfig(loss="constant_nce", negatives=100).preflight(4708, 256)
    assert "runs away" in notes[0]
    assert PIRLConfig(negatives=100).preflight(4708, 256)[1] == []


@pytest.mark.parametrize("loss", ["nce", "softmax", "constant_nce"])
def test_chance_loss__is_logged_by_every_loss(loss):
    logs = method(loss=loss)(make_batch("pirl", 4), progress(0)).logs
    assert float(logs["chance_loss"]) > 0
