"""Two processes against one on whole networks, which would take minutes for every method."""

import pytest
import torch
import torch.distributed as dist
from tests.methods.test_contract import RESNET18, WORLD, gaps, two_steps
from tests.processes import run_ranks

from scoutview.nn.backbones import BackboneConfig

SIDE = 32


def differences_of_a_resnet(name: str, file: str) -> list[float]:
    """In one of several processes: largest deviations from the one-process run in `file`."""
    expected = torch.load(file, weights_only=True, mmap=True)
    return gaps(two_steps(name, dist.get_rank(), dist.get_world_size(), RESNET18), expected)


@pytest.mark.ddp
@pytest.mark.parametrize(
    "name", ["barlow_twins", "byol", "moco_v2", "simclr", "supervised", "swav"]
)
def test_two_processes__agree_on_the_whole_resnet18(name, tmp_path):
    file = str(tmp_path / "one.pt")
    torch.save(two_steps(name, 0, 1, RESNET18), file)
    for of_rank in run_ranks(differences_of_a_resnet, WORLD, name, file):
        assert max(of_rank) < 1e-10, of_rank


TRANSFORMER = BackboneConfig(name="test_vit", image_size=SIDE)
"""Patches of 16 pixels, so that the smallest crop is one patch."""


def differences_of_a_transformer(name: str, file: str) -> list[float]:
    """As `differences`, of a network of patches, whose layers normalise every image by itself."""
    expected = torch.load(file, weights_only=True, mmap=True)
    rank, world = dist.get_rank(), dist.get_world_size()
    return gaps(two_steps(name, rank, world, TRANSFORMER, side=SIDE), expected)


@pytest.mark.ddp
@pytest.mark.parametrize(("name", "most"), [("dino", 1e-8), ("moco_v3", 1e-10)])
def test_two_processes__agree_on_a_transformer(name, most, tmp_path):
    """For crops of another size, DINO's, timm interpolates position embeddings in float32."""
    file = str(tmp_path / "one.pt")
    torch.save(two_steps(name, 0, 1, TRANSFORMER, side=SIDE), file)
    for of_rank in run_ranks(differences_of_a_transformer, WORLD, name, file):
        assert max(of_rank) < most, of_rank
