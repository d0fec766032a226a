"""timm models give, bit for bit, what timm's own interfaces give."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import repdyn
from repdyn.errors import RepdynError
from repdyn_adapters.timm import TimmAdapter

PICTURES = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)

# Small members, made smaller still where their arguments allow it.
MODELS = {
    "vit": ("test_vit", {}),
    "vit_gap": ("test_vit", {"global_pool": "avg", "class_token": False, "num_classes": 5}),
    "vit_reg": ("test_vit2", {}),
    "convnext": ("test_convnext", {}),
    "resnet": ("test_resnet", {}),
    "efficientnet": ("test_efficientnet", {}),
    "mobilenet": ("mobilenetv3_small_050", {}),
    "mobilenetv2": ("mobilenetv2_035", {}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)},
    ),
}
FIXED = {
    "swin": {"img_size": 64, "window_size": 2},
    "vit": {"img_size": 64},
    "vit_gap": {"img_size": 64},
    "vit_reg": {"img_size": 64},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    name, changes = MODELS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name, **changes, **FIXED.get(request.param, {})).eval()
        for part in module.modules():
            # Untrained layer scales of 1e-6 and running statistics of 0 and 1 would hide mistakes.
            if hasattr(part, "running_mean") and part.running_mean is not None:
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2)
    return module


def intermediates(module):
    """timm's own intermediate outputs, with class tokens where there are any, channels last, flattened."""
    with torch.inference_mode():
        x = torch.from_numpy(PICTURES)
        if hasattr(module, "blocks") and hasattr(module, "num_prefix_tokens"):
            _, found = module.forward_intermediates(x, output_fmt="NLC", return_prefix_tokens=True)
            return [
                torch.cat([entry[1], entry[0]], 1).numpy() if isinstance(entry, tuple) else entry.numpy()
                for entry in found
            ]
        _, found = module.forward_intermediates(x)
        return [entry.flatten(2).transpose(1, 2).numpy() for entry in found]


def test_unpooled_blocks_are_timms_own_intermediates(model):
    paths = repdyn.trace(model, PICTURES, pool="none", batch_size=3)
    blocks = [np.asarray(paths[name]) for name in paths.points if name != "pooled"]
    expected = intermediates(model)
    if hasattr(model, "conv1") or hasattr(model, "conv_stem"):
        expected = expected[1:]  # ResNet, EfficientNet and MobileNet: the stem is one too, and no block
    for entry in expected:
        assert any(block.shape == entry.shape and np.array_equal(block, entry) for block in blocks)


def test_final_point_and_logits_are_timms_own(model):
    paths = repdyn.trace(model, PICTURES, batch_size=3)
    with torch.inference_mode():
        x = torch.from_numpy(PICTURES)
        pooled = model.forward_head(model.forward_features(x), pre_logits=True).flatten(1).numpy()
        logits = model(x).numpy()
    assert paths.points[-1] == "pooled"
    np.testing.assert_array_equal(np.asarray(paths["pooled"]), pooled)
    np.testing.assert_array_equal(paths.logits, logits)


def test_auto_pooling_is_the_heads(model):
    """Pooling the last block as declared, then the model's own norm, gives what the head sees."""
    paths = repdyn.trace(model, PICTURES, batch_size=3, pool="none")
    auto = repdyn.trace(model, PICTURES, batch_size=3)
    last = paths.points[-2]
    tokens = np.asarray(paths[last]).astype(np.float64)
    if getattr(model, "global_pool", "") == "token":
        expected = tokens[:, 0]
    else:
        expected = tokens[:, getattr(model, "num_prefix_tokens", 0) :].mean(1)
    np.testing.assert_allclose(np.asarray(auto[last]), expected, rtol=1e-4, atol=1e-5)


def test_batch_size_changes_nothing(model):
    whole = repdyn.trace(model, PICTURES, batch_size=3)
    single = repdyn.trace(model, PICTURES, batch_size=1)
    for name in whole.points:
        scale = np.abs(np.asarray(whole[name])).max()
        np.testing.assert_allclose(
            np.asarray(whole[name]), np.asarray(single[name]), atol=2e-5 * max(scale, 1)
        )


def test_every_block_is_read():
    found = {
        name: len(TimmAdapter().wrap(timm.create_model(name)).default_points) - 1
        for name in (
            "resnet18",
            "vit_tiny_patch16_224",
            "convnext_atto",
            "efficientnet_b0",
            "mobilenetv3_small_050",
        )
    }
    assert found == {
        "resnet18": 8,
        "vit_tiny_patch16_224": 12,
        "convnext_atto": 12,
        "efficientnet_b0": 16,
        "mobilenetv3_small_050": 12,
    }


def test_prepare_is_timms_transform():
    module = timm.create_model("test_resnet")
    model = TimmAdapter().wrap(module)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = transform(picture)
    for sample in (picture, pixels, torch.from_numpy(pixels).permute(2, 0, 1)):
        torch.testing.assert_close(model.prepare([sample])[0], expected, rtol=0, atol=0)
    assert model.prepare([picture.convert("P"), picture.convert("LA")]).shape[1] == 3
    with pytest.raises(RepdynError, match=r"'a\.png' is a name, expected a picture"):
        model.prepare(["a.png"])
    torch.testing.assert_close(model.prepare([expected])[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_local_checkpoint(tmp_path, ending):
    module = timm.create_model("test_resnet", num_classes=7)
    file = tmp_path / f"weights{ending}"
    if ending == ".pth":
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, file
        )
    else:
        save_file(module.state_dict(), file)
    model = repdyn.load(f"timm:test_resnet@{file}")
    assert model.digest == TimmAdapter().wrap(module).digest
    assert model.head(torch.zeros(2, model.module.num_features)).shape == (2, 7)


def test_checkpoint_that_does_not_fit_says_which_keys(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    state.pop("conv1.0.weight")
    state["surplus"] = torch.zeros(2)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(RepdynError, match=r"1 missing \(conv1.0.weight\); 1 unexpected \(surplus\)"):
        repdyn.load(f"timm:test_resnet@{tmp_path / 'w.safetensors'}")


def test_foreign_checkpoint_is_not_run(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(RepdynError, match="not a readable checkpoint"):
        repdyn.load(f"timm:test_resnet@{tmp_path / 'w.pth'}")
    with pytest.raises(RepdynError, match="no such checkpoint"):
        repdyn.load("timm:test_resnet@/nowhere/w.pth")


def test_wrong_name_lists_the_nearest():
    with pytest.raises(RepdynError, match="'resnet18'"):
        repdyn.load("timm:resnet-18")


def test_a_model_without_a_classifier_has_no_head():
    model = TimmAdapter().wrap(timm.create_model("test_vit", num_classes=0))
    assert model.head is None
    paths = repdyn.trace(model, np.zeros((1, 3, 160, 160), dtype=np.float32))
    assert paths.points[-1] == "pooled"
    assert paths.logits is None
