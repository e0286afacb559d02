"""MVDream's UNet on diffusers against the original code's outputs, and loading of original-layout weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gd_core.diffusion import load_unet, predict_noise
from gd_core.diffusion.checkpoint import read_weights
from gd_core.diffusion.multiview import text_kept

DATA = Path(__file__).parents[1] / "data"
CASES = load_file(DATA / "unet_tiny" / "cases.safetensors")
PARAMETERS = {"sd21": 867_572_164, "sd15": 861_182_404}


@pytest.fixture(scope="module")
def weights():
    shards = (DATA / "unet_tiny" / f"weights-{k}-of-2.safetensors" for k in (1, 2))
    return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}


@pytest.fixture(scope="module")
def config():
    return json.loads((DATA / "unet_tiny" / "config.json").read_text())


def predict(unet, case):
    with torch.no_grad():
        return predict_noise(
            unet,
            CASES[f"{case}.x"],
            CASES[f"{case}.timesteps"],
            CASES[f"{case}.context"],
            CASES.get(f"{case}.camera"),
            int(CASES[f"{case}.num_frames"]),
        )


@pytest.mark.parametrize("case", ["cfg4", "mixed_t", "no_camera_2d"])
def test_prediction_is_the_original_codes(weights, config, case):
    unet = load_unet(weights, config)
    assert (predict(unet, case) - CASES[f"{case}.eps_bytedance"]).abs().max() <= 1e-4


def test_views_and_cameras_matter(weights, config):
    unet = load_unet(weights, config)
    x, t, context, camera = (CASES[f"cfg4.{name}"] for name in ("x", "timesteps", "context", "camera"))
    expected = CASES["cfg4.eps_bytedance"]
    with torch.no_grad():
        assert (predict_noise(unet, x, t, context, camera, 1) - expected).abs().max() > 1
        assert (predict_noise(unet, x, t, context, None, 4) - expected).abs().max() > 0.3
        assert (predict_noise(unet, x, t, context, torch.zeros_like(camera), 4) - expected).abs().max() > 0.1
    assert unet.class_embedding is not None  # the no-camera mode puts the camera MLP back


def test_kept_text_changes_nothing_but_the_work(weights, config):
    unet = load_unet(weights, config)
    context, other = CASES["cfg4.context"], CASES["mixed_t.context"]
    camera, x = CASES["cfg4.camera"], CASES["cfg4.x"].clone().requires_grad_()
    projections = []
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.register_forward_hook(lambda *_: projections.append(None))

    def passes():
        with torch.no_grad():
            outputs = [predict_noise(unet, x, t, text, camera, 4) for t, text in ((900, context), (500, context), (500, other))]
        return [*outputs, torch.autograd.grad(predict_noise(unet, x, 500, context, camera, 4).sum(), x)[0]]

    expected, layers = passes(), len(projections) // 4
    projections.clear()
    with pytest.raises(KeyboardInterrupt), text_kept(unet, context):
        kept = passes()
        raise KeyboardInterrupt
    assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))
    assert len(projections) == 3 * layers  # the first two passes share theirs
    assert all(processor.kept_text is None for processor in unet.attn_processors.values())


def test_shards_and_file_and_dict_agree(tmp_path, weights, config):
    folder = tmp_path / "shards"  # weights as they are, with the config beside them
    folder.mkdir()
    for name in ("weights-1-of-2.safetensors", "weights-2-of-2.safetensors", "config.json"):
        (folder / name).write_bytes((DATA / "unet_tiny" / name).read_bytes())
    pickle = tmp_path / "unet.pt"
    torch.save({name.removeprefix("model.diffusion_model."): tensor for name, tensor in weights.items()}, pickle)
    expected = predict(load_unet(weights, config), "cfg4")
    assert torch.equal(predict(load_unet(folder), "cfg4"), expected)
    assert torch.equal(predict(load_unet(pickle, config), "cfg4"), expected)


@pytest.mark.parametrize("family", PARAMETERS)
def test_real_size_keys_load_strictly(family):
    shapes = json.loads((DATA / "unet_keys" / f"{family}_unet_keys.json").read_text())
    unet = load_unet({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert len(unet.state_dict()) == len(shapes) == 690
    assert sum(p.numel() for p in unet.parameters()) == PARAMETERS[family]
    heads = {"sd21": [5, 10, 20, 20], "sd15": 8}[family]
    assert unet.config.attention_head_dim == heads
    assert unet.config.use_linear_projection == (family == "sd21")


def test_yaml_head_names_are_understood(weights, config):
    per_head = load_unet(weights, {"num_head_channels": 16})
    whole = {key: value for key, value in config.items() if key != "num_head_channels"} | {"num_heads": 4}
    assert per_head.config.attention_head_dim == [2, 2, 4, 4]
    assert load_unet(weights, whole).config.attention_head_dim == 4
    assert load_unet(weights, whole | {"num_head_channels": -1}).config.attention_head_dim == 4


def test_weights_may_be_half_precision(weights, config):
    unet = load_unet(weights, config, dtype=torch.float16)
    assert {p.dtype for p in unet.parameters()} == {torch.float16}
    assert unet.conv_in.weight.data_ptr() == weights["model.diffusion_model.input_blocks.0.0.weight"].data_ptr()  # no copy


PREFIX = "model.diffusion_model."


def without(weights, *parts):
    return {name: tensor for name, tensor in weights.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: without(w, "camera_embed"), "without 'camera_embed', not MVDream"),
        (lambda w: w | {f"{PREFIX}input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip.weight": torch.zeros(1)}, "ImageDream"),
        (lambda w: w | {f"{PREFIX}image_embed.proj_in.weight": torch.zeros(1)}, "ImageDream"),
        (lambda w: without(w, "input_blocks.0.0"), "no UNet in MVDream's original layout"),
        (lambda w: without(w, "input_blocks.2.0.in_layers.0.bias"), "1 missing, such as down_blocks.0.resnets.1.norm1.bias"),
        (lambda w: without(w, "middle_block"), "incomplete"),
        (lambda w: w | {f"{PREFIX}label_emb.0.0.weight": torch.zeros(1)}, "label_emb.0.0.weight"),
        (lambda w: w | {f"{PREFIX}middle_block.0.extra": torch.zeros(1)}, "1 not known, such as mid_block.resnets.0.extra"),
        (lambda w: w | {f"{PREFIX}out.0.bias": torch.zeros(7)}, r"1 of another shape, such as conv_norm_out.bias \[7\]"),
        (lambda w: w | {f"{PREFIX}out.0.bias": torch.full((32,), torch.nan)}, "'conv_norm_out.bias' .* holds NaN"),
        (lambda w: w | {f"{PREFIX}out.0.bias": torch.tensor([torch.inf, -torch.inf] + 30 * [0.0])}, "holds NaN or infinite"),
    ],
)
def test_other_weights_are_refused(weights, config, change, message):
    with pytest.raises(ValueError, match=message):
        load_unet(change(weights), config)


def test_unknown_heads_are_asked_for(weights):
    with pytest.raises(ValueError, match="number of attention heads .* 'num_head_channels'"):
        load_unet(weights)


def test_config_of_another_model_is_refused(weights, config):
    with pytest.raises(ValueError, match="says model_channels = 320, but its weights have 32"):
        load_unet(weights, config | {"model_channels": 320})


class RunsOnLoad:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_bad_files_are_refused(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*absent.pt"):
        load_unet("absent.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no weights"):
        load_unet("empty")
    whole = (DATA / "unet_tiny" / "weights-1-of-2.safetensors").read_bytes()
    for length in (0, 4, len(whole) // 2):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut.safetensors .* cut short"):
            load_unet("cut.safetensors")
    torch.save({"weight": RunsOnLoad()}, "evil.pt")
    with pytest.raises(ValueError, match="evil.pt was refused: .*code"):
        load_unet("evil.pt")
    assert not Path("executed").exists()
    torch.save(weights, "whole.pt")
    Path("cut.pt").write_bytes(Path("whole.pt").read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut.pt"):
        load_unet("cut.pt")


def test_a_folder_of_two_models_is_refused(tmp_path, weights):
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes((DATA / "unet_tiny" / "weights-1-of-2.safetensors").read_bytes())
    with pytest.raises(ValueError, match="in two files"):
        read_weights(tmp_path)
