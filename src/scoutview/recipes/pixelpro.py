"""PixelPro: the dense self-supervised baseline of a study of image-report pre-training.

Source: Müller et al., 2022, arXiv:2112.02889 (supplement, training of the baselines), after
lucidrains/pixel-level-contrastive-learning.
Deviations: pixels are the cells of the last feature map. The study took them from behind the
average pooling: one cell per image, for which propagation does nothing and the dense loss is an
image-level one. That form is not reproduced, so the published PixelPro rows (RSNA detection with a
frozen backbone and 10 % of the labels: mAP 6.4, below 8.0 of ImageNet weights) are no yardstick for
this recipe. Views are not mirrored, because the heart has a side.
"""

from scoutview.api.experiment import Pretraining
from scoutview.api.pretrain import PretrainConfig
from scoutview.methods.pixpro import PixProConfig
from scoutview.nn.backbones import BackboneConfig
from scoutview.nn.optim_config import AdamConfig, CosineSchedule
from scoutview.views.policy import Augment, Intensity, TwoCrops


def pixelpro(*, seed: int = 0, weights: str | None = None) -> Pretraining:
    """Pre-train ResNet-50: `pretrain(cohort, one.method, out, config=one.config, ...)`.

    Data: frontal chest radiographs; the study used those of MIMIC-CXR, 210 thousand studies.
    Protocol: Adam, lr 1e-3, weight decay 1e-5, one epoch of warm-up, then half a cosine, 100
    epochs, batch 64; crops of .6 to .8 of each side at 224 pixels; propagation with gamma 2 and one
    layer, threshold .7, instance loss with weight 1, teacher's momentum .99 throughout.
    Hardware and time: one GPU with 24 GB in the study; not run here, so no result is claimed.

    Args:
        seed: Seed of everything random.
        weights: First weights, as "imagenet"; null starts at random.

    Returns:
        Method, its settings, and the training; also an arm of an experiment.
    """
    augment = Augment(
        intensity=Intensity(
            brightness=0.8, contrast=0.8, jitter_probability=0.8, blur_probability=0.5
        )
    )
    settings = PixProConfig(
        views=TwoCrops(size=224, scale=(0.36, 0.64), ratio=(1.0, 1.0), first=augment),
        hidden_dim=2048,
        output_dim=512,
        threshold=0.7,
        exponent=2.0,
        transform_layers=1,
        momentum=0.99,
        momentum_schedule="constant",
        instance_weight=1.0,
        optimizer=AdamConfig(lr=1e-3, lr_per=None, weight_decay=1e-5, decay_excluded=True),
        schedule=CosineSchedule(warmup_epochs=1),
    )
    config = PretrainConfig(
        epochs=100,
        batch_size=64,
        seed=seed,
        backbone=BackboneConfig(name="resnet50", weights=weights),
    )
    return Pretraining(method="pixpro", settings=settings, config=config)
