"""First weights of a network: from a file, or from timm's hub when the user asks for it."""

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file as read_safetensors
from torch import Tensor

from scoutview.base.errors import ConfigError

log = logging.getLogger(__name__)

_DAMAGED = (SafetensorError, pickle.UnpicklingError, EOFError, LookupError, OSError, RuntimeError)
"""What the two readers raise for damaged files; a `KeyError` is an unknown pickle code."""

_PREFIXES = ("module.", "backbone.", "model.")


def load_hub(model: Any, name: str) -> None:
    """Load timm's pre-trained weights from the hub; the input layer adapts to the channels.

    Raises:
        ConfigError: The network has no weights there, or the hub cannot be reached.
    """
    card = model.pretrained_cfg
    if not (card.get("hf_hub_id") or card.get("url")):
        raise ConfigError(f"timm has no pre-trained weights for {name!r}; give a file instead.")
    log.info("Loading %s, licence %s", card.get("hf_hub_id") or card["url"], card.get("license"))
    try:
        timm_state = _fetch(model)
    except (OSError, HfHubHTTPError) as error:
        raise ConfigError(
            f"The weights of {name!r} cannot be fetched ({type(error).__name__}). Check the"
            " network, or fetch the file elsewhere and give its path as weights."
        ) from error
    _load(model, timm_state, source=f"timm {name}")


def _fetch(model: Any) -> dict[str, Tensor]:
    from timm.models import load_state_dict_from_hf

    card = model.pretrained_cfg
    if card.get("hf_hub_id"):
        state: dict[str, Tensor] = load_state_dict_from_hf(card["hf_hub_id"], weights_only=True)
        return state
    return dict(torch.hub.load_state_dict_from_url(card["url"], weights_only=True))


def load_file(model: Any, path: str | Path) -> None:
    """Load weights from a .safetensors file or a file of torch.save that holds only tensors.

    Raises:
        ConfigError: The file is missing, holds no weights, or belongs to another network.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"weights: expected 'imagenet' or a file, got {str(path)!r}.")
    _load(model, _read(path), source=path.name)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(read_safetensors(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise ConfigError(
            f"weights: {path.name} must be a whole .safetensors file, or one of torch.save that"
            f" holds only tensors, but reading it failed ({type(error).__name__}); copy or"
            " download it again."
        ) from error
    if isinstance(state, dict):
        state = state.get("state_dict", state.get("model", state))
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ConfigError(
            f"weights: {path.name} must hold tensors by name, got {type(state).__name__}; save the"
            " network's state_dict."
        )
    return state


def _load(model: Any, state: dict[str, Tensor], *, source: str) -> None:
    state = {_bare(name): value for name, value in state.items()}
    own = model.state_dict()
    first = f"{model.pretrained_cfg.get('first_conv') or ''}.weight"
    if first in state and first in own:
        state[first] = _adapt_channels(state[first], own[first].shape[1])
    state = {name: value for name, value in state.items() if name in own}  # drops the classifier
    wrong = [n for n in own if n not in state or state[n].shape != own[n].shape]
    if wrong:
        raise ConfigError(
            f"{source} does not fit {type(model).__name__}: {len(wrong)} of {len(own)} tensors are"
            f" missing or of another shape, the first is {wrong[0]!r}; name the backbone it is of."
        )
    model.load_state_dict(state)


def _bare(name: str) -> str:
    """Remove the prefixes that wrappers put before timm's names."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Spread a first convolution (O, C, h, w) over another number of channels.

    One channel gets the sum, as if grey were repeated; more get the mean, scaled so that a constant
    image gives the same response.
    """
    have = weight.shape[1]
    if have == channels:
        return weight
    total = weight.sum(dim=1, keepdim=True)  # (O, 1, h, w)
    return (total / channels).repeat(1, channels, 1, 1)
