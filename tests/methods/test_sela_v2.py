import math
from dataclasses import replace

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone, sweep_of

from scoutview.base.errors import ConfigError
from scoutview.methods.sela_v2 import SeLaV2, SeLaV2Config, relabels
from scoutview.nn.backbones import encode_views


def method(**settings) -> SeLaV2:
    torch.manual_seed(0)
    values = {"hidden_dim": 16, "output_dim": 8, "clusters": (4, 8)} | settings
    return SeLaV2(small_backbone(), SeLaV2Config(**values), dataset_size=64)


def test_preflight__lowers_defaults_and_refuses_what_the_user_wrote():
    assert SeLaV2Config().preflight(4708, 256)[0].clusters == (470, 470, 470)
    with pytest.raises(ConfigError, match="clusters must be at most 2354"):
        SeLaV2Config(clusters=(3000,)).preflight(4708, 256)


def test_labels__are_used_equally_often():
    sela = method(sharpness=1000.0, sinkhorn_iterations=2000)
    sela.between_epochs(sweep_of("sela_v2"), progress(0))
    for head, count in enumerate((4, 8)):
        used = torch.bincount(sela.assignments[head], minlength=count)
        assert used.sum() == 64
        assert used.max() - used.min() <= 4
    nearest = (sela.memory.rows[0] @ sela.prototypes[0].T).argmax(dim=1)
    assert torch.bincount(nearest, minlength=4).max() > 20  # predictions alone are not equal


def test_labels__that_were_not_found_are_said(caplog):
    sela = method(sinkhorn_iterations=2)
    sela.between_epochs(sweep_of("sela_v2"), progress(0))
    assert "head 0 were not found in 2 rounds" in caplog.text
    assert "head 1 were not found" in caplog.text
    caplog.clear()
    sela = method()
    sela.between_epochs(sweep_of("sela_v2"), progress(0))
    assert "not found" not in caplog.text


def test_loss__tells_the_labels_of_each_image_from_each_view():
    sela = method(temperature=0.2)
    sela.between_epochs(sweep_of("sela_v2"), progress(0))
    batch = make_batch("sela_v2", 8)
    batch = replace(batch, rows=torch.tensor([5, 1, 60, 33, 2, 17, 48, 9]))
    loss = float(sela(batch, progress(0)).loss.detach())
    with torch.no_grad():
        seen = sela.projector(encode_views(sela.backbone, batch.views))
        seen = torch.nn.functional.normalize(seen, dim=1).view(len(batch.views), 8, -1)
    total = []
    for prototypes, labels in zip(sela.prototypes, sela.assignments, strict=True):
        for view in seen:
            for row, z in zip(batch.rows.tolist(), view, strict=True):
                scores = [float(z @ p.detach()) / 0.2 for p in prototypes]
                log_sum = math.log(sum(math.exp(s) for s in scores))
                total.append(log_sum - scores[int(labels[row])])
    assert loss == pytest.approx(sum(total) / len(total), rel=1e-4)


def test_labels__stay_between_updates():
    sela = method(label_updates=2)  # of 30 epochs: before the first one only
    sela.between_epochs(sweep_of("sela_v2"), progress(0))
    labels = sela.assignments.clone()
    for start in range(0, 64, 16):
        batch = make_batch("sela_v2", 16, seed=start)
        sela(replace(batch, rows=batch.rows + start), progress(0)).loss.backward()
        sela.after_update(progress(0))
    sela.between_epochs(sweep_of("sela_v2"), progress(1))
    assert torch.equal(sela.assignments, labels)
    sela.config = sela.config.model_copy(update={"label_updates": None})
    sela.between_epochs(sweep_of("sela_v2"), progress(2))
    assert not torch.equal(sela.assignments, labels)


def test_relabels__is_dense_at_the_start_as_in_the_first_version():
    due = [epoch for epoch in range(200) if relabels(epoch, 200, 20)]
    moments = [200.01 * (i / 19) ** 2 for i in range(20)]
    assert due == sorted({math.ceil(moment) for moment in moments if moment <= 199})
    assert due[:5] == [0, 1, 3, 5, 9]
    assert all(relabels(epoch, 200, None) for epoch in range(200))


def test_prototypes__keep_unit_length():
    sela = method()
    sela.between_epochs(sweep_of("sela_v2"), progress(0))
    optimizer = torch.optim.SGD(sela.parameters(), lr=1.0)
    sela(make_batch("sela_v2", 8), progress(0)).loss.backward()
    optimizer.step()
    sela.after_update(progress(0))
    for prototypes in sela.prototypes:
        torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(len(prototypes)))


def test_logs__hold_chance_level():
    sela = method(temperature=1e6)
    sela.between_epochs(sweep_of("sela_v2"), progress(0))
    out = sela(make_batch("sela_v2", 8), progress(0))
    chance = (math.log(4) + math.log(8)) / 2
    assert float(out.logs["chance_loss"]) == pytest.approx(chance)
    assert float(out.loss.detach()) == pytest.approx(chance, rel=1e-4)
