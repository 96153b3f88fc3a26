import pytest
import timm
import torch
from safetensors.torch import save_file

from scoutview.base.errors import ConfigError
from scoutview.nn.backbones import BackboneConfig, build_backbone, encode_views, timm_arguments

NETWORKS = {
    "test_resnet": 64,
    "test_convnext": 64,
    "test_efficientnet": 64,
    "test_vit": 160,
    "resnet10t": 64,
    "mobilenetv3_small_050": 64,
    "swin_s3_tiny_224": 224,
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_backbone__gives_what_it_promises(name, channels):
    backbone = build_backbone(BackboneConfig(name=name, in_channels=channels)).eval()
    side = NETWORKS[name]
    images = torch.randn(2, channels, side, side)
    with torch.no_grad():
        assert backbone(images).shape == (2, backbone.dim)
        maps = backbone.feature_maps(images)
        assert [m.shape[1] for m in maps] == list(backbone.widths)
        assert [side // m.shape[2] for m in maps] == list(backbone.strides)
        assert list(backbone.strides) == sorted(backbone.strides)
        pyramid = backbone.pyramid(images)
        assert set(pyramid) == set(backbone.strides)
        tokens = backbone.tokens(images)
        last = maps[-1].shape
        assert tokens.shape[:2] == (2, last[2] * last[3])
        dense = backbone.dense(images)
        assert dense.grid == tuple(last[2:])
        torch.testing.assert_close(dense.cells, tokens)
        torch.testing.assert_close(dense.pooled, backbone(images))


def test_tokens__follow_the_rows_of_the_last_map():
    backbone = build_backbone(BackboneConfig(name="test_resnet")).eval()
    images = torch.randn(2, 1, 64, 96)
    last = backbone.feature_maps(images)[-1]  # (2, C, 2, 3)
    tokens = backbone.tokens(images)
    torch.testing.assert_close(tokens[:, 4], last[:, :, 1, 1])
    torch.testing.assert_close(tokens.mean(dim=1), backbone(images))


def test_feature_maps__share_their_weights_with_forward():
    backbone = build_backbone(BackboneConfig(name="test_resnet"))
    images = torch.randn(2, 1, 64, 64)
    backbone.feature_maps(images)[0].sum().backward()
    assert backbone.model.conv1[0].weight.grad.abs().max() > 0


def test_small_stem__keeps_the_resolution_and_tells_the_strides():
    backbone = build_backbone(BackboneConfig(name="resnet18", small_stem=True))
    images = torch.randn(2, 1, 28, 28)
    maps = backbone.feature_maps(images)
    assert [m.shape[2] for m in maps] == [28, 28, 14, 7, 4]
    assert backbone.strides == (1, 1, 2, 4, 8)
    assert sum(p.numel() for p in backbone.parameters()) == 11_176_512 - 64 * 3 * 49 + 64 * 9


def test_small_stem__is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match="needs a ResNet"):
        build_backbone(BackboneConfig(name="test_vit", small_stem=True))
    with pytest.raises(ConfigError, match="7x7 stem"):
        build_backbone(BackboneConfig(name="resnet18", small_stem=True, weights="imagenet"))


def test_vit__takes_views_of_several_sizes():
    backbone = build_backbone(BackboneConfig(name="test_vit", image_size=64))
    views = [torch.randn(3, 1, 64, 64)] * 2 + [torch.randn(3, 1, 32, 32)] * 3
    assert encode_views(backbone, views).shape == (15, backbone.dim)


def test_encode_views__groups_by_size_and_keeps_the_order():
    backbone = build_backbone(BackboneConfig(name="test_resnet")).eval()
    views = [torch.randn(2, 1, s, s) for s in (64, 64, 32, 32, 32)]
    with torch.no_grad():
        expected = torch.cat([backbone(view) for view in views])
        torch.testing.assert_close(encode_views(backbone, views), expected)


def test_timm_arguments__rebuild_the_same_network():
    config = BackboneConfig(name="resnet18", stage_widths=(8, 8, 16, 16), stage_depths=(1, 1, 1, 1))
    backbone = build_backbone(config)
    twin = timm.create_model(**timm_arguments(config))
    twin.load_state_dict(backbone.model.state_dict())
    images = torch.randn(2, 1, 64, 64)
    assert torch.equal(twin.eval()(images), backbone.eval()(images))


def test_weights__from_a_file_of_timm_adapt_to_the_channels(tmp_path):
    rgb = timm.create_model("test_resnet", num_classes=10).eval()
    save_file(rgb.state_dict(), tmp_path / "rgb.safetensors")
    torch.save({"state_dict": rgb.state_dict()}, tmp_path / "rgb.pt")
    grey = torch.randn(2, 1, 64, 64)
    expected = rgb.forward_head(rgb.forward_features(grey.expand(2, 3, 64, 64)), pre_logits=True)
    for file in ("rgb.safetensors", "rgb.pt"):
        config = BackboneConfig(name="test_resnet", weights=str(tmp_path / file))
        torch.testing.assert_close(build_backbone(config).eval()(grey), expected)


def test_weights__of_our_own_run_load_with_their_prefix(tmp_path):
    backbone = build_backbone(BackboneConfig(name="test_resnet")).eval()
    save_file(
        {f"backbone.{n}": v for n, v in backbone.state_dict().items()}, tmp_path / "b.safetensors"
    )
    config = BackboneConfig(name="test_resnet", weights=str(tmp_path / "b.safetensors"))
    images = torch.randn(2, 1, 64, 64)
    assert torch.equal(build_backbone(config).eval()(images), backbone(images))


def test_weights__of_another_network_are_refused_with_a_name(tmp_path):
    save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "other.safetensors")
    config = BackboneConfig(name="test_resnet", weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(ConfigError, match=r"other\.safetensors does not fit ResNet"):
        build_backbone(config)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["junk", "empty", "half"])
def test_weights__that_are_damaged_say_so(tmp_path, suffix, damage):
    path = tmp_path / f"w{suffix}"
    state = build_backbone(BackboneConfig(name="test_resnet")).state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes({"junk": b"junk" * 3, "empty": b"", "half": whole[: len(whole) // 2]}[damage])
    with pytest.raises(ConfigError, match=rf"{path.name} must be a whole .*again"):
        build_backbone(BackboneConfig(name="test_resnet", weights=str(path)))


def test_weights__of_a_file_without_names_are_refused(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(ConfigError, match="tensors by name, got list"):
        build_backbone(BackboneConfig(name="test_resnet", weights=str(tmp_path / "list.pt")))


def test_weights__that_are_missing_say_so(tmp_path):
    with pytest.raises(ConfigError, match="'imagenet' or a file"):
        build_backbone(BackboneConfig(name="test_resnet", weights=str(tmp_path / "none.pt")))
    with pytest.raises(ConfigError, match="no pre-trained weights"):
        build_backbone(BackboneConfig(name="ecaresnet200d", weights="imagenet"))


def test_weights__from_a_blocked_hub_say_what_to_do(monkeypatch):
    import timm.models

    def blocked(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", blocked)
    with pytest.raises(ConfigError, match="give its path"):
        build_backbone(BackboneConfig(name="test_resnet", weights="imagenet"))


def test_build__refuses_unknown_names():
    with pytest.raises(ConfigError, match="Nearest in timm: resnet18"):
        build_backbone(BackboneConfig(name="resnet_18"))
