"""Adapter of energy bands."""

from typing import Any

import numpy as np
from tests.golden.case import Case, MissingError

from scoutview.views.energy_bands import decompose, energies, fit_energies, recombine
from scoutview.views.policy import EnergyBands


def philipsen(case: Case) -> dict[str, Any]:
    ins = {name: value.numpy() for name, value in case.ins.items()}
    if "images" in ins:
        return _direct_iterated(case, ins)
    image, sigmas = ins["image"], case.arguments["sigmas"]
    bands = decompose(image, sigmas, border="wrap")
    region = ins["mask"].astype(bool) if "mask" in ins else _central(image.shape)
    measured = energies(bands, region)
    middle = float(bands[-1][region].mean())
    wanted = ins["reference_energy"][::-1]  # the reference counts from the coarsest band
    changed = recombine(bands, measured, wanted, residual="standardise", middle=middle, silent=0.0)
    return {
        "bands": bands[::-1],
        "band_mean": bands[:, region].mean(axis=1)[::-1],
        "band_std": measured[::-1],
        "normalised": changed,
    }


def _central(shape: tuple[int, ...]) -> np.ndarray:
    region = np.zeros(shape, dtype=bool)
    region[tuple(slice(int(0.15 * n), int(0.85 * n)) for n in shape)] = True
    return region


def _direct_iterated(case: Case, ins: dict[str, np.ndarray]) -> dict[str, Any]:
    sigmas = tuple(2.0 ** (i + 1) for i in range(case.arguments["B"]))
    region = ins["mask"].astype(bool)

    def split(image: np.ndarray) -> np.ndarray:
        return decompose(image, sigmas, cascaded=False)

    found = [energies(split(image), region) for image in ins["reference_images"]]
    everywhere = EnergyBands(sigmas=sigmas, cascaded=False)
    whole = fit_energies(ins["reference_images"], everywhere).mean
    expected = np.mean([energies(split(i)) for i in ins["reference_images"]], axis=0)
    if not np.allclose(whole, expected):
        raise MissingError("mean energies of the reference images")
    wanted = np.mean(found, axis=0)
    images = list(ins["images"])
    bands = np.stack([split(image) for image in images])
    for _ in range(case.arguments["iterations"]):
        images = [
            recombine(split(i), energies(split(i), region), wanted, residual="scale", silent=0.0)
            for i in images
        ]
    return {
        "bands": bands,
        "energies": np.stack([energies(b, region) for b in bands]),
        "normalised": np.stack(images),
    }
