import torch

from scoutview.nn.precision import full_precision, unit


@full_precision
def product(a, b):
    return a @ b


def test_full_precision__switches_autocast_off_and_raises_halves():
    a = torch.randn(3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = product(a.bfloat16(), b=a)
        assert (a @ a).dtype == torch.bfloat16
    assert out.dtype == torch.float32


def test_full_precision__leaves_float64_alone():
    a = torch.randn(3, 3, dtype=torch.float64)
    assert product(a, a).dtype == torch.float64


def test_unit__gives_float32_rows_of_length_one():
    rows = unit(torch.randn(4, 5).bfloat16())
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
