"""`load_mvdream` over every kind of source, what it refuses, and the bundle that `convert` writes."""

import json
import pickle
import random
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from gd_core.diffusion import convert, load_mvdream, predict_noise
from gd_core.diffusion.bundle import save_bundle
from gd_core.diffusion.hub import is_hub_source
from gd_core.diffusion.loaders import load_original
from gd_core.diffusion.multiview import ray_geometry
from tests.original_layout import original_checkpoint
from tests.random_models import GEOMETRY, random_mvdream

PORT_ONLY_KEYS = {  # what the port's MultiViewUNetModel registers besides what shapes tell
    "_class_name": "MultiViewUNetModel",
    "image_size": 32,
    "model_channels": 64,
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "attention_resolutions": [1],
    "num_head_channels": 64,
    "transformer_depth": 1,
    "context_dim": 1024,
    "use_checkpoint": False,
    "camera_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A small whole checkpoint of each family, "sd21.safetensors" and "sd15.pt"."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_file(original_checkpoint("sd21", torch.float16), folder / "sd21.safetensors")
    torch.save(original_checkpoint("sd15", torch.float16), folder / "sd15.pt")
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"), ray_geometry=GEOMETRY, name="small")


def outputs(model):
    """What every part of a model gives for fixed inputs."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 30, (1, 77), generator=generator)
    latents = torch.randn(4, 4, 4, 4, generator=generator).to(model.dtype)
    with torch.no_grad():
        context = model.text_encoder(tokens).last_hidden_state
        cameras = model.default_cameras().conditioning()
        noise = predict_noise(model.unet, latents, 500, context, cameras, 4)
        images = model.decode(latents[:2])
        return context, noise, images, model.encode(images)


def assert_same(model, other):
    """The same weights give the same outputs, but for kernels that are chosen by where in memory the weights lie."""
    for ours, theirs in zip(outputs(model), outputs(other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, pad_id, activation", [("sd21.safetensors", 0, "gelu"), ("sd15.pt", 49407, "quick_gelu")])
def test_original_checkpoint_to_bundle_and_back(tmp_path, checkpoints, name, pad_id, activation):
    model = load_mvdream(checkpoints / name)
    assert model.dtype == model.vae.dtype == model.text_encoder.dtype == torch.float32
    assert not model.unet.training and not any(p.requires_grad for p in model.unet.parameters())
    assert model.tokenizer.pad_token_id == pad_id
    assert model.text_encoder.config.hidden_act == activation
    assert model.scheduler.config.prediction_type == "epsilon"
    assert model.vae_scale_factor == 8 and model.latent_size == 32
    convert(checkpoints / name, tmp_path / "bundle")
    bundle = load_mvdream(tmp_path / "bundle")
    assert_same(model, bundle)
    assert bundle.config == model.config
    assert bundle.tokenizer("a cube!")["input_ids"] == model.tokenizer("a cube!")["input_ids"]
    assert {**bundle.scheduler.config, "_use_default_values": None} == {**model.scheduler.config, "_use_default_values": None}
    assert torch.equal(bundle.scheduler.alphas_cumprod, model.scheduler.alphas_cumprod)


def test_folder_of_the_diffusers_port(tmp_path, checkpoints):
    """UNet in original names, the rest as diffusers has it; Python files beside them are nobody's business."""
    model = load_mvdream(checkpoints / "sd21.safetensors")
    folder = tmp_path / "port"
    convert(checkpoints / "sd21.safetensors", folder)
    (folder / "mvdream.json").unlink()
    weights = load_file(checkpoints / "sd21.safetensors")
    prefix = "model.diffusion_model."
    unet = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    save_file(unet, folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "config.json").write_text(json.dumps(PORT_ONLY_KEYS))
    (folder / "unet" / "mv_unet.py").write_text("raise RuntimeError('executed')")
    index = {"_class_name": "MVDreamPipeline", "unet": ["mv_unet", "MultiViewUNetModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    text = folder / "text_encoder" / "model.safetensors"  # old releases of transformers also saved a buffer
    save_file(load_file(text) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, text)
    assert_same(load_mvdream(str(folder)), model)


def test_bundle_keeps_config_geometry_and_tokenizer(tmp_path, small):
    save_bundle(small, tmp_path / "bundle")
    loaded = load_mvdream(tmp_path / "bundle")
    assert_same(loaded, small)
    assert loaded.config == small.config
    assert ray_geometry(loaded.unet) == ray_geometry(small.unet) is not None
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert loaded.tokenizer("a red cube")["input_ids"] == small.tokenizer("a red cube")["input_ids"]
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "bundle").rglob("*.json"))


def test_bundle_is_memory_mapped_unless_cast(tmp_path, small):
    save_bundle(small, tmp_path / "bundle", dtype=torch.float16)
    mapped = load_mvdream(tmp_path / "bundle", dtype="fp16").unet
    names = [name for name, _ in mapped.named_parameters()]
    storages = {parameter.untyped_storage().data_ptr() for parameter in mapped.parameters()}
    file_size = (tmp_path / "bundle" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert len(names) > 100 and mapped.dtype == torch.float16
    span = max(p.data_ptr() for p in mapped.parameters()) - min(p.data_ptr() for p in mapped.parameters())
    assert len(storages) == 1 or span < file_size  # all in one file's mapping
    assert load_mvdream(tmp_path / "bundle").dtype == torch.float32


def test_bundle_replaces_only_its_own_parts(tmp_path, small):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "README.md").write_text("a model card")
    save_bundle(small, folder)
    save_bundle(small, folder)
    assert (folder / "README.md").read_text() == "a model card"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]  # no temporary folder stays


def test_failed_save_leaves_the_old_bundle(tmp_path, small, monkeypatch):
    save_bundle(small, tmp_path / "bundle")
    before = {path: path.read_bytes() for path in (tmp_path / "bundle").rglob("*") if path.is_file()}

    def full_disk(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("gd_core.diffusion.bundle.save_tokenizer", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_bundle(small, tmp_path / "bundle")
    assert {path: path.read_bytes() for path in (tmp_path / "bundle").rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_convert_does_not_write_over_other_things(tmp_path, checkpoints):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(ValueError, match="photos exists and is not a model bundle"):
        convert(checkpoints / "sd21.safetensors", tmp_path / "photos")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ValueError, match="file exists and is not a model bundle"):
        convert(checkpoints / "sd21.safetensors", tmp_path / "file")


class RunsOnLoad:
    def __reduce__(self):
        return (open, ("executed", "w"))


def without(weights, *parts):
    return {name: tensor for name, tensor in weights.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: without(w, "camera_embed"), "is a Stable Diffusion checkpoint without 'camera_embed', not MVDream"),
        (lambda w: w | {"model.diffusion_model.image_embed.proj_in.weight": torch.zeros(2)}, "is an ImageDream checkpoint"),
        (lambda w: without(w, "diffusion_model"), "no UNet in MVDream's original layout"),
        (lambda w: without(w, "first_stage_model"), "has no autoencoder .* not its UNet alone"),
        (lambda w: without(w, "cond_stage_model"), "has no text encoder"),
        (lambda w: without(w, "encoder.conv_in"), "autoencoder of .* is incomplete"),
        (lambda w: without(w, "decoder.mid.attn_1.q.bias"), "autoencoder .* 1 missing, such as decoder.mid_block.*to_q.bias"),
        (lambda w: w | {"first_stage_model.loss.logvar": torch.zeros(1)}, "1 not known, such as loss.logvar"),
        (lambda w: w | {"cond_stage_model.model.visual.proj": torch.zeros(2)}, "text encoder of .* not CLIP's .*visual.proj"),
        (lambda w: w | {"cond_stage_model.model.ln_final.bias": torch.full((1024,), torch.nan)}, "text encoder of .* NaN"),
        (lambda w: w | {"first_stage_model.decoder.conv_out.bias": torch.tensor([0, 0, torch.inf])}, "autoencoder .* infinite"),
    ],
)
def test_checkpoints_of_other_models_are_refused(tmp_path, checkpoints, change, message):
    weights = change(load_file(checkpoints / "sd21.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        load_mvdream(tmp_path / "other.safetensors")
    assert "other.safetensors" in str(caught.value)


@pytest.mark.parametrize("family", ["sd21", "sd15"])
def test_any_weight_of_a_wrong_shape_is_one_clear_error(family):
    whole = {name: tensor.to("meta") for name, tensor in original_checkpoint(family, torch.float16).items()}
    # Not the schedule, what is not run (OpenCLIP's last block), or embeddings, of which there may be any number.
    free = ("betas", "alphas_cumprod", "text_projection", "logit_scale", "resblocks.1.", "position", "token_embedding")
    names = [name for name in whole if not any(part in name for part in free)]
    random.Random(0).shuffle(names)
    changes = (lambda t: t.new_empty(0), lambda t: t[0], lambda t: torch.cat((t, t)), lambda t: t[None])
    for k, name in enumerate(names[:16]):
        with pytest.raises(ValueError, match="model.pt"):
            load_original(whole | {name: changes[k % 4](whole[name])}, torch.float32, "model.pt")


def test_bad_paths_are_refused(tmp_path, monkeypatch, checkpoints):
    monkeypatch.chdir(tmp_path)
    for source in ("absent.safetensors", "owner/name", "/no/such/folder"):
        with pytest.raises(FileNotFoundError, match=f"no model at '{source}': .*'owner/name@revision'"):
            load_mvdream(source)
    Path("empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no MVDream model"):
        load_mvdream("empty")
    whole = (checkpoints / "sd21.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.safetensors .* cut short .*: download it again"):
        load_mvdream("cut.safetensors")
    torch.save({"model.diffusion_model.input_blocks.0.0.weight": RunsOnLoad()}, "evil.pt")
    Path("evil.ckpt").write_bytes(pickle.dumps(RunsOnLoad()))
    for name in ("evil.pt", "evil.ckpt"):
        with pytest.raises(ValueError, match=f"{name} was refused"):
            load_mvdream(name)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "break_it, error, message",
    [
        (lambda f: (f / "vae" / "config.json").unlink(), FileNotFoundError, "no config.json in .*vae: .* is incomplete"),
        (lambda f: (f / "mvdream.json").write_text("{"), ValueError, "mvdream.json is not valid JSON"),
        (lambda f: (f / "mvdream.json").write_text("{}"), ValueError, "is not the card of a Grounded-Dreamer model bundle"),
        (lambda f: rewrite(f / "mvdream.json", version=99), ValueError, "bundle format 99, this release reads up to 2"),
        (lambda f: rewrite(f / "mvdream.json", zest=1), ValueError, "entries that no model has: zest"),
        (lambda f: shutil.rmtree(f / "scheduler"), FileNotFoundError, "lacks scheduler"),
        (lambda f: shutil.rmtree(f / "unet"), FileNotFoundError, "lacks unet"),
        (lambda f: (f / "tokenizer" / "merges.txt").unlink(), FileNotFoundError, "tokenizer has no merges.txt"),
        (lambda f: (f / "text_encoder" / "model.safetensors").unlink(), FileNotFoundError, "text_encoder has no weights"),
        (lambda f: rewrite(f / "mvdream.json", ray_geometry=None), ValueError, "not known, such as .*attn1.processor.gain"),
        (lambda f: rewrite(f / "unet" / "config.json", cross_attention_dim=64), ValueError, "UNet of .* of another shape"),
    ],
)
def test_damaged_bundles_are_refused(tmp_path, small, break_it, error, message):
    save_bundle(small, tmp_path / "bundle")
    break_it(tmp_path / "bundle")
    with pytest.raises(error, match=message):
        load_mvdream(tmp_path / "bundle")


def rewrite(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_diffusers_folder_of_stable_diffusion_is_refused(tmp_path, small):
    save_bundle(small, tmp_path / "bundle")
    (tmp_path / "bundle" / "mvdream.json").unlink()
    with pytest.raises(ValueError, match="unet has no UNet in MVDream's original layout"):
        load_mvdream(tmp_path / "bundle")


@pytest.mark.parametrize(
    "source, is_one",
    [("ashawkey/mvdream-sd2.1-diffusers@73a034178e748421506492e91790cc62d6aefef5", True), ("a/b@v1.0", True), ("a/b", False),
     ("tiny", False), ("a@b", False), ("https://host/a/b@main", False), ("../a/b@main", False)],
)  # fmt: skip
def test_hub_sources(source, is_one):
    assert is_hub_source(source) == is_one


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, small, monkeypatch):
    """A hub on this machine with one repository, and an empty cache. Yields the paths that were asked of it."""
    root = tmp_path / "served"
    save_bundle(small, root)
    (root / "run_me.py").write_text("raise RuntimeError")
    (root / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self, body=True):
            path = self.path.split("?")[0]
            asked.append(path)
            found = re.fullmatch(rf"/owner/name/resolve/{REVISION}/(.+)", path)
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in files.items()
            ]
            if found:
                content, headers = files[found[1]], {"ETag": f'"{hash(found[1]) & 0xFFFFFF:x}"', "X-Repo-Commit": REVISION}
            elif path == f"/api/models/owner/name/revision/{REVISION}":
                siblings = [{"rfilename": name} for name in files]
                content, headers = json.dumps({"id": "owner/name", "sha": REVISION, "siblings": siblings}).encode(), {}
            elif path == f"/api/models/owner/name/tree/{REVISION}":
                content, headers = json.dumps(tree).encode(), {}
            else:
                wrong = "RevisionNotFound" if "/owner/name/" in path else "RepoNotFound"
                self.send_response(404)
                self.send_header("X-Error-Code", wrong)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            for header, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(header, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_HEAD(self):
            self.do_GET(body=False)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    for module in (huggingface_hub.constants, huggingface_hub.file_download):  # old releases keep a copy
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield asked
    server.shutdown()
    server.server_close()


def test_hub_downloads_a_pinned_revision_once_and_no_code(hub, small):
    assert_same(load_mvdream(f"owner/name@{REVISION}"), small)
    files = {path.split("resolve/")[1] for path in hub if "resolve/" in path}
    assert any(name.endswith(".safetensors") for name in files)
    assert not any(name.endswith((".py", ".bin")) for name in files)
    fetched = len(hub)
    load_mvdream(f"owner/name@{REVISION}")
    assert not any("resolve" in path for path in hub[fetched:])  # cached


def test_hub_errors_say_what_to_do(hub, monkeypatch):
    with pytest.raises(ValueError, match="the hub's owner/name has no revision 'no-such'"):
        load_mvdream("owner/name@no-such")
    with pytest.raises(ValueError, match="no repository 'other/name'"):
        load_mvdream("other/name@main")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="owner/name@main could not be downloaded .* it goes on where it stopped"):
        load_mvdream("owner/name@main")
