import math

import pytest
import torch
from torch import nn

from scoutview.nn.teacher import cosine_momentum, frozen_copy, update_teacher


def test_update_teacher__is_the_weighted_mean():
    student = nn.Linear(3, 2)
    teacher = frozen_copy(nn.Linear(3, 2))
    expected = [
        0.9 * t + 0.1 * s for t, s in zip(teacher.parameters(), student.parameters(), strict=True)
    ]
    update_teacher(teacher, student, 0.9)
    for actual, value in zip(teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(actual.data, value.data)


def test_update_teacher__leaves_buffers_alone():
    student, teacher = nn.BatchNorm1d(2), frozen_copy(nn.BatchNorm1d(2))
    student.running_mean.fill_(5.0)
    update_teacher(teacher, student, 0.0)
    assert teacher.running_mean.tolist() == [0.0, 0.0]


def test_frozen_copy__shares_nothing_and_is_frozen():
    student = nn.Linear(3, 2)
    teacher = frozen_copy(student)
    teacher.weight.zero_()
    assert student.weight.abs().max() > 0
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_cosine_momentum__equals_the_paper_equation(fraction):
    expected = 1 - (1 - 0.996) * (math.cos(math.pi * fraction) + 1) / 2
    assert cosine_momentum(0.996, fraction) == pytest.approx(expected)


def test_cosine_momentum__stays_one_after_the_end():
    assert cosine_momentum(0.9, 1.5) == 1.0
