import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPModel, CLIPTokenizer

from gd_core.metrics import clip_r_precision, clip_score, load_clip, minimum_object_clip


@pytest.fixture(scope="module")
def encoder(clip_folder):
    return load_clip(clip_folder)


def test_embeddings_are_the_librarys_own(encoder, clip_folder):
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(
        ["a red cube", "a blue sphere next to a green cone"], padding="max_length", max_length=24, return_tensors="pt"
    )
    images = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([[0.5, 0.4, 0.3], [0.25, 0.2, 0.3]])[..., None, None]
    pixels = (images.movedim(-1, 1) - mean) / std
    with torch.no_grad():
        output = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
    torch.testing.assert_close(encoder.embed_images(images), output.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder.embed_texts(["a red cube", "a blue sphere next to a green cone"]), output.text_embeds)
    score = clip_score(encoder.embed_images(images[:1]), encoder.embed_texts(["a red cube"]))
    scaled = output.logits_per_image[0, 0] / model.logit_scale.exp()  # the library's own cosine
    torch.testing.assert_close(score[0], 100 * scaled.clamp(min=0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (20, 20)])
def test_preprocessing_is_the_librarys(encoder, shape):
    reference = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)(
        size={"shortest_edge": 32}, crop_size=32, image_mean=[0.5, 0.4, 0.3], image_std=[0.25, 0.2, 0.3]
    )
    smooth = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    images = torch.nn.functional.interpolate(smooth, shape, mode="bilinear").movedim(1, -1)
    as_bytes = (images[0] * 255).round().numpy().astype(np.uint8)
    expected = torch.as_tensor(np.asarray(reference(images=as_bytes, return_tensors="np")["pixel_values"]))
    ours = encoder.prepare(torch.from_numpy(as_bytes.astype(np.float32) / 255)[None])
    assert (ours - expected).abs().max() < 2.5 / 255 / 0.2  # PIL rounds to bytes after each of its two passes


def test_score_by_formula():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[6.0, 8.0], [0.0, 5.0], [-2.0, 0.0]])
    torch.testing.assert_close(clip_score(a, b), torch.tensor([100.0, 0.0, 0.0]))


def test_r_precision_on_known_ranks():
    texts = torch.eye(4)
    images = torch.tensor([[1.0, 0.5, 0, 0], [0.5, 1, 0.2, 0], [0.1, 0.3, 0.2, 0]])  # the third ranks its prompt 2 second
    own = torch.tensor([0, 1, 2])
    assert clip_r_precision(images, texts, own).tolist() == [True, True, False]
    assert clip_r_precision(images, texts, own, r=2).tolist() == [True, True, True]
    assert not clip_r_precision(torch.ones(4, 4), texts, torch.arange(4)).any(), "a tie is no retrieval"
    with pytest.raises(ValueError, match="more than 4 prompts"):
        clip_r_precision(images, texts, own, r=4)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_r_precision_follows_a_permutation_of_the_prompts(prompts, seed):
    generator = torch.Generator().manual_seed(seed)
    texts, images = torch.randn(prompts, 5, generator=generator), torch.randn(6, 5, generator=generator)
    own = torch.randint(prompts, (6,), generator=generator)
    order = torch.randperm(prompts, generator=generator)
    shuffled = clip_r_precision(images, texts[order], order.argsort()[own])
    assert shuffled.tolist() == clip_r_precision(images, texts, own).tolist()


def test_minimum_object_is_the_worst_subject_of_each_view():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    score, worst = minimum_object_clip(images, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert worst == 1 and score == pytest.approx((0 + 0 + 60) / 3)


def test_missing_and_wrong_folders_say_so(tmp_path):
    with pytest.raises(ValueError, match="no CLIP model in .*nowhere"):
        load_clip(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert', not 'clip'"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="does not load"):
        load_clip(tmp_path)
