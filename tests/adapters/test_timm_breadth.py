"""Breadth over timm: one small member of every architecture family, with random weights.

Every one is traced with its default points; the last of them, through the head, gives the model's own logits,
the batch size changes nothing, and what the library offers as intermediate outputs is among what is read.
"""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.models._registry import _model_to_module

from repdyn.tracing import trace
from repdyn_adapters.timm import TimmAdapter

FAMILIES = {
    "beit": ("beit_base_patch16_224", {"depth": 2}),
    "byoanet": ("eca_botnext26ts_256", {}),
    "byobnet": ("test_byobnet", {}),
    "cait": ("cait_xxs24_224", {"depth": 2}),
    "coat": ("coat_tiny", {}),
    "convit": ("convit_tiny", {"depth": 2, "local_up_to_layer": 1}),
    "convmixer": ("convmixer_1024_20_ks9_p14", {}),
    "convnext": ("test_convnext", {}),
    "cpubone": ("cpubone_nano", {}),
    "crossvit": ("crossvit_tiny_240", {}),
    "csatv2": ("csatv2", {}),
    "cspnet": ("cs3darknet_focus_s", {}),
    "cspnext": ("cspnext_tiny", {}),
    "davit": ("davit_tiny", {}),
    "deepseek_vit": ("deepseek_vit_412m", {"depth": 2}),
    "deit": ("deit_tiny_patch16_224", {"depth": 2}),
    "densenet": ("densenet121", {}),
    "dla": ("dla34", {}),
    "dpn": ("dpn107", {}),
    "edgenext": ("edgenext_xx_small", {}),
    "efficientformer": ("efficientformer_l1", {}),
    "efficientformer_v2": ("efficientformerv2_s0", {}),
    "efficientnet": ("test_efficientnet", {}),
    "efficientvim": ("efficientvim_m1", {}),
    "efficientvit_mit": ("efficientvit_b0", {}),
    "efficientvit_msra": ("efficientvit_m0", {}),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", {"depth": 2}),
    "fasternet": ("fasternet_t0", {}),
    "fastvit": ("fastvit_t8", {}),
    "focalnet": ("focalnet_tiny_srf", {}),
    "gcvit": ("gcvit_xxtiny", {}),
    "gemma4_vit": ("gemma4_vit_167m", {"depth": 2}),
    "ghostnet": ("ghostnet_050", {}),
    "hardcorenas": ("hardcorenas_b", {}),
    "hgnet": ("hgnetv2_b0", {}),
    "hiera": ("hiera_tiny_224", {}),
    "hieradet_sam2": ("sam2_hiera_tiny", {}),
    "hrnet": ("hrnet_w18_small", {}),
    "iformer": ("iformer_t", {}),
    "inception_next": ("inception_next_atto", {}),
    "inception_resnet_v2": ("inception_resnet_v2", {}),
    "inception_v3": ("inception_v3", {}),
    "inception_v4": ("inception_v4", {}),
    "lcnetv2": ("lcnetv2_small", {}),
    "levit": ("levit_128s", {}),
    "lowformer": ("lowformer_b0", {}),
    "mambaout": ("test_mambaout", {}),
    "maxxvit": ("test_coatnet", {}),
    "metaformer": ("poolformerv2_s12", {}),
    "mlp_mixer": ("gmlp_ti16_224", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "mobilenetv5": ("mobilenetv5_base", {}),
    "mobilevit": ("mobilevit_xxs", {}),
    "mvitv2": ("mvitv2_tiny", {}),
    "naflexvit": ("naflexvit_base_patch16_gap", {"depth": 2}),
    "nasnet": ("nasnetalarge", {}),
    "nest": ("nest_tiny", {}),
    "nextvit": ("nextvit_small", {}),
    "nfnet": ("test_nfnet", {}),
    "pit": ("pit_ti_224", {}),
    "pnasnet": ("pnasnet5large", {}),
    "pvt_v2": ("pvt_v2_b0", {}),
    "qwen3_vit": ("qwen3_vit_88m", {"depth": 2}),
    "rdnet": ("rdnet_tiny", {}),
    "regnet": ("regnetx_002", {}),
    "repghost": ("repghostnet_050", {}),
    "repvit": ("repvit_m1_0", {}),
    "res2net": ("res2net50_26w_4s", {}),
    "resnest": ("resnest26d", {}),
    "resnet": ("test_resnet", {}),
    "resnetv2": ("resnetv2_18", {}),
    "rexnet": ("rexnet_100", {}),
    "selecsls": ("selecsls42", {}),
    "senet": ("legacy_seresnet18", {}),
    "sequencer": ("sequencer2d_s", {}),
    "shvit": ("shvit_s1", {}),
    "sknet": ("skresnet18", {}),
    "starnet": ("starnet_s050", {}),
    "swiftformer": ("swiftformer_s", {}),
    "swin_transformer": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)},
    ),
    "swin_transformer_v2": (
        "swinv2_tiny_window8_256",
        {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)},
    ),
    "swin_transformer_v2_cr": (
        "swinv2_cr_tiny_224",
        {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)},
    ),
    "tiny_vit": ("tiny_vit_5m_224", {}),
    "tnt": ("tnt_s_legacy_patch16_224", {"depth": 2}),
    "tresnet": ("tresnet_m", {}),
    "twins": ("twins_svt_small", {}),
    "vgg": ("vgg11_bn", {}),
    "visformer": ("visformer_tiny", {}),
    "vision_transformer": ("test_vit", {}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", {"depth": 2}),
    "vision_transformer_relpos": ("test_vit_relpos", {}),
    "vision_transformer_sam": ("samvit_base_patch16_224", {"depth": 2}),
    "vitamin": ("vitamin_small_224", {}),
    "volo": ("volo_d1_224", {}),
    "vovnet": ("ese_vovnet19b_slim_dw", {}),
    "xception": ("legacy_xception", {}),
    "xception_aligned": ("xception41p", {}),
    "xcit": ("xcit_nano_12_p8_224", {"depth": 2}),
}
NO_HEAD = {
    "crossvit": "two classifiers of two inputs, averaged",
    "efficientvim": "a classifier for every stage, averaged",
    "eva": "this member has no classifier",
    "hieradet_sam2": "this member has no classifier",
    "deepseek_vit": "no classifier",
    "gemma4_vit": "no classifier",
    "qwen3_vit": "no classifier",
    "volo": "logits come from the class token and from every place besides",
}


def test_no_family_is_forgotten():
    assert set(_model_to_module.values()) - set(FAMILIES) == set()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_family(family):
    name, changes = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name, **changes).eval()
    size = module.pretrained_cfg.get("input_size", (3, 224, 224))
    if not module.pretrained_cfg.get("fixed_input_size") and size[1] > 128:
        side = 126 if family == "deepseek_vit" else 128
        size = (3, side, side)
    x = np.random.default_rng(0).normal(size=(4, *size)).astype(np.float32)
    model = TimmAdapter().wrap(module)
    whole, single = trace(model, x, batch_size=3), trace(model, x, batch_size=1)
    assert len(whole.points) > 1
    for point in whole.points:
        a, b = np.asarray(whole[point]), np.asarray(single[point])
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(a).max()), err_msg=point)
    if family in NO_HEAD:
        assert whole.logits is None
    else:
        with torch.inference_mode():
            expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(whole.logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))
