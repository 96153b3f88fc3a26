import torch

from scoutview.nn.jigsaw import JigsawHead


def test_jigsaw_head__joins_the_patches_of_each_image():
    torch.manual_seed(0)
    head = JigsawHead(5, 7, 3, patches=4, layers=2).double()
    patches = torch.randn(4, 2, 5, dtype=torch.float64)  # (P, B, dim)
    joined = head(patches.flatten(0, 1))
    for image in range(2):
        parts = [head.patch(patches[p, image][None])[0] for p in range(4)]
        expected = head.joint.weight @ torch.cat(parts) + head.joint.bias
        torch.testing.assert_close(joined[image], expected)


def test_jigsaw_head__knows_the_order_in_which_patches_come():
    torch.manual_seed(0)
    head = JigsawHead(5, 0, 3, patches=4)
    patches = torch.randn(4, 2, 5)
    turned = patches.flip(0)
    assert not torch.allclose(head(patches.flatten(0, 1)), head(turned.flatten(0, 1)))
