"""What people get wrong: one clear sentence on a red node, and nothing written outside ComfyUI's folders."""

from __future__ import annotations

import inspect
import os
import sys
from types import SimpleNamespace

import pytest
import torch


@pytest.mark.parametrize(
    ("focus", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[1, 2]", "must look like"),
        ('{"v": 2, "focus": []}', "version 2"),
        ('{"v": 1, "focus": [{"word": 3}]}', "needs a word"),
        ('{"v": 1, "focus": [{"word": "cube", "weight": "heavy"}]}', "number as weight"),
        ('{"v": 1, "focus": [{"word": "cube", "weight": 99}]}', "from 0 to 3"),
        ('{"v": 1, "focus": [{"word": "cube", "weight": NaN}]}', "from 0 to 3"),
        ('{"v": 1, "focus": [{"word": "cube", "occurrence": -1}]}', "the first one is 0"),
        ('{"v": 1, "focus": [{"word": "cube"}, {"word": "cube"}]}', "twice"),
        ("[" * 15_000, "nested"),
        ('"' + "x" * 50_000 + '"', "50002 characters"),
    ],
)
def test_a_wrong_focus_is_refused(run, focus, complaint):
    with pytest.raises(ValueError, match="focus") as caught:
        run("FocusPrompt", prompt="a red cube", focus=focus)
    message = str(caught.value)
    assert complaint in message and len(message) < 400 and "\n" not in message


def test_one_bad_value_is_one_error(nodes):
    """Core blames every argument of `validate_inputs` for what it says."""
    for name, node in nodes.items():
        check = getattr(node, "validate_inputs", None)
        assert check is None or len(inspect.signature(check).parameters) == 1, name


def test_a_right_focus_passes(nodes, run):
    focus = '{"v": 1, "focus": [{"word": "Cube", "weight": 0}]}'
    assert nodes["FocusPrompt"].validate_inputs(prompt="a red cube") is True
    assert nodes["FocusPrompt"].validate_inputs(prompt=None) is True  # the prompt is linked
    assert run("FocusPrompt", prompt="a red cube", focus=focus).args[0].focus.words[0].weight == 0


@pytest.mark.parametrize("prompt", ["", " \n", "cube " * 2000])
def test_prompts_that_no_model_reads(nodes, prompt):
    message = nodes["FocusPrompt"].validate_inputs(prompt=prompt)
    assert isinstance(message, str) and len(message) < 200


STALE = [
    ('{"v": 1, "focus": [{"word": "cube", "weight": 2}, {"word": "dog"}]}', ["cube"], ["'dog' is not in the prompt"]),
    ('{"v": 1, "focus": [{"word": "cube"}, {"word": "cube", "occurrence": 1}]}', ["cube"], ["only once"]),
    ('{"v": 1, "focus": [{"word": "dog"}, {"word": "cat"}]}', None, ["'dog'", "'cat'", "subjects are focused instead"]),
    ('{"v": 1, "focus": [{"word": "red"}, {"word": "a", "occurrence": 4}]}', ["red"], ["only once"]),
]


@pytest.mark.parametrize(("focus", "kept", "told"), STALE)
def test_stale_focus_words_are_named_and_the_run_goes_on(nodes, run, caplog, focus, kept, told):
    out = run("FocusPrompt", prompt="a red cube", focus=focus)
    chosen = out.args[0].focus
    assert (chosen and [word.key for word in chosen.words]) == kept
    notes = out.ui["gd_notes"]
    assert len(notes) == len(told) and all(part in note for part, note in zip(told, notes, strict=True))
    assert all(note in caplog.text for note in notes)


@pytest.mark.parametrize(
    ("text", "clean", "focus"),
    [
        ("a red (cube:1.05) and a sphere", "a red cube and a sphere", {"cube": 1.05, "sphere": 1.0}),
        ("((cube)), (a blue sphere:0.5)", "cube, a blue sphere", {"cube": 1.21, "sphere": 0.5}),
        ("a (red:2) cube \\(big\\)", "a red cube (big)", {"red": 2.0, "cube": 1.0}),
        ("a (cube:7)", "a cube", {"cube": 3.0}),
    ],
)
def test_core_weights_are_focus_weights(run, text, clean, focus):
    out = run("FocusPrompt", prompt=text)
    assert out.args[0].text == out.args[1] == clean
    found = {word.key: word.weight for word in out.args[0].focus.words}
    assert focus.items() <= found.items()
    assert out.ui["gd_prompt"] == [text]


def test_a_chip_wins_over_the_text(run):
    focus = '{"v": 1, "focus": [{"word": "cube", "weight": 2}]}'
    out = run("FocusPrompt", prompt="a (cube:1.1) and a (sphere:1.3) and a torus", focus=focus)
    assert {word.key: word.weight for word in out.args[0].focus.words} == {"cube": 2.0, "sphere": 1.3}


@pytest.mark.parametrize(
    ("text", "clean", "told"),
    [
        ("a cube, embedding:shiny", "a cube,", "'embedding:shiny' is left out"),
        ("(embedding:shiny.pt:1.2) a cube", "a cube", "is left out"),
        ("a cube BREAK a sphere", "a cube, a sphere", "'BREAK' is left out"),
        ("a [cube:sphere:0.5]", "a cube", "'cube' stands from the first step"),
        ("a [cube:sphere:0.5] and a cone", "a cube and a cone", "'cube' stands"),
        ("a [red|blue] cube", "a red cube", "'red' stands"),
        ("a cube <lora:solid:0.8>", "a cube", "a LoRA is loaded beside the model"),
        ("a __color__ cube", "a cube", "wildcards"),
        ("a [red] cube", "a red cube", "brackets"),
        ("a {red|blue} cube", "a {red|blue} cube", "is read as it stands"),
    ],
)
def test_foreign_syntax_gets_one_sentence(run, text, clean, told):
    out = run("FocusPrompt", prompt=text)
    assert out.args[1] == clean
    assert len(out.ui["gd_notes"]) == 1 and told in out.ui["gd_notes"][0]


@pytest.mark.parametrize("typed", ["a child’s cube", "a child&#39;s cube", "a CHILD's  cube"])
def test_a_focus_word_is_cleaned_as_its_prompt_is(run, typed):
    out = run("FocusPrompt", prompt=typed, focus='{"v": 1, "focus": [{"word": "child’s", "weight": 2}]}')
    assert [word.key for word in out.args[0].focus.words] == ["child's"] and not out.ui["gd_notes"]


def test_core_resolves_choices_where_they_are_typed(nodes):
    declared = {entry.id: entry for entry in nodes["FocusPrompt"].define_schema().inputs}
    assert [name for name, entry in declared.items() if entry.more.get("dynamic_prompts")] == ["prompt", "negative_prompt"]


@pytest.mark.parametrize("text", ["(blurry:1.3)", "embedding:bad", "a {b|c}", "BREAK"])
def test_syntax_in_the_negative_prompt_gets_one_sentence(run, text):
    notes = run("FocusPrompt", prompt="a cube", negative_prompt=text).ui["gd_notes"]
    assert len(notes) == 1 and ("egative prompt" in notes[0] or "is read as it stands" in notes[0])


def test_a_prompt_that_is_syntax_alone_is_refused(nodes):
    assert "'embedding:x' is left out" in nodes["FocusPrompt"].validate_inputs(prompt="embedding:x")


def a_graph(model="tiny (bundled)"):
    return {
        "1": {"class_type": "GroundedDreamerLoadMVDream", "inputs": {"model": model}},
        "2": {"class_type": "SomeLora", "inputs": {"model": ["1", 0]}},
        "3": {"class_type": "GroundedDreamerSampleViews", "inputs": {"model": ["2", 0], "prompt": ["7", 0]}},
    }


@pytest.mark.parametrize(
    ("prompt", "negative", "told"),
    [
        ("a red spheer", "", r"'spheer' of the prompt. Did you mean 'sphere'\?"),
        ("a red giraffe", "", "'giraffe' of the prompt. It is a small model"),
        ("red cubes", "", r"Did you mean 'cube'\?"),
        ("a red cube!", "", "the sign '!'"),
        ("a red cube", "blurry", "'blurry' of the negative prompt. It is"),
    ],
)
def test_an_unknown_word_is_the_focus_prompts_error(nodes, run, monkeypatch, prompt, negative, told):
    def with_model(model):
        hidden = SimpleNamespace(unique_id="7", prompt=a_graph(model))
        monkeypatch.setattr(nodes["FocusPrompt"], "hidden", hidden, raising=False)
        return run("FocusPrompt", prompt=prompt, negative_prompt=negative)

    with pytest.raises(ValueError, match=told):
        with_model("tiny (bundled)")
    for open_or_not_known in ("small", "not there.safetensors", ["5", 0]):
        assert with_model(open_or_not_known).args[1] == prompt


@pytest.mark.parametrize(
    "prefix",
    ["../../x", "/etc/x", "..", "a/../../x", "C:\\..\\..\\x\\..\\..\\..\\y", "", "x" * 300, "a\0b", "ü" * 120,
     "3d/", "3d/ ", "/", "a/.", "3d\\"],
)  # fmt: skip
def test_prefixes_that_lead_out_of_the_output_folder_or_have_no_name(nodes, base, prefix):
    before = sorted(base.parent.rglob("*"))
    for name in ("ExportMesh", "SaveField"):
        message = nodes[name].validate_inputs(filename_prefix=prefix)
        assert isinstance(message, str) and "filename_prefix" in message
    assert sorted(base.parent.rglob("*")) == before


def test_a_prefix_with_signs_that_windows_refuses(pack, nodes, monkeypatch):
    assert nodes["ExportMesh"].validate_inputs(filename_prefix="3d/a:b?") is True or os.name == "nt"
    monkeypatch.setattr(pack.nodes.files, "REFUSED_SIGNS", ':*?"<>|')
    assert "has : ?, which" in nodes["ExportMesh"].validate_inputs(filename_prefix="3d/a:b?")


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((0, -1, "texture", 0), {}),
        ((128, 0, "texture", 1024), {"resolution": 128, "target_faces": 0, "texture_size": 1024}),
        ((10, 500_000, "texture", 0), {"resolution": 16, "target_faces": 400_000}),
        ((130, 500_000, "vertex", 0), {"resolution": 128, "target_faces": 500_000}),
        ((600, 50, "vertex", 30), {"resolution": 512, "target_faces": 100, "texture_size": 64}),
    ],
)
def test_a_mesh_that_cannot_be_is_the_nearest_that_can(pack, caplog, asked, made):
    """By then the field is there: no number is worth losing minutes."""
    mesh = sys.modules[f"{pack.__name__}.nodes.mesh"]
    assert mesh.mesh_changes(*asked) == {"color": asked[2]} | made
    for name, value in made.items():
        given = dict(zip(("resolution", "target_faces", "_", "texture_size"), asked, strict=True))[name]
        assert (f"{name} {given} cannot be" in caplog.text) == (given != value)


def test_a_prefix_that_arrives_over_a_link_is_refused_too(run):
    class Field:
        def save(self, path):
            raise AssertionError(f"written to {path}")

    with pytest.raises(ValueError, match="leads out of the output folder"):
        run("SaveField", field=Field(), filename_prefix="../../x")


@pytest.mark.parametrize(
    ("shape", "mask_shape", "complaint"),
    [
        ((1, 32, 32, 3), None, "batch 2 to 64"),
        ((65, 16, 16, 3), None, "batch 2 to 64"),
        ((4, 8, 8, 3), None, "at least 16x16"),
        ((4, 32, 32, 3), (4, 16, 16), "one mask of the same size"),
        ((4, 32, 32, 3), (1, 32, 32), "one mask of the same size"),
    ],
)
def test_images_that_are_no_views(run, shape, mask_shape, complaint):
    masks = None if mask_shape is None else torch.ones(mask_shape)
    with pytest.raises(ValueError, match=complaint):
        run("ViewsFromImages", images=torch.rand(shape), masks=masks)


def test_blank_images_have_nothing_to_fit(run):
    views = run("ViewsFromImages", images=torch.ones(4, 32, 32, 3)).args[0]
    with pytest.raises(ValueError, match="mask"):
        run("FitNeRF", views=views, steps=5)


def test_models_that_are_not_there(nodes, run, base):
    load = nodes["LoadMVDream"]
    assert "no model '../../secret.pt'" in load.validate_inputs(model="../../secret.pt")
    hub = next(name for name in load.define_schema().inputs[0].options if "@" in name)
    with pytest.raises(ValueError, match="turn on 'download'"):
        run("LoadMVDream", model=hub)


def test_a_file_that_is_no_model_is_named(run, base):
    (base / "models/mvdream/notes.safetensors").write_bytes(b"not a model at all")
    try:
        with pytest.raises(ValueError, match="notes.safetensors"):
            run("LoadMVDream", model="notes.safetensors")
    finally:
        (base / "models/mvdream/notes.safetensors").unlink()


def test_the_list_shows_folders_once_and_files_of_subfolders(nodes, base):
    inside = base / "models/mvdream/mine/original.pt"
    inside.parent.mkdir()
    inside.touch()
    (base / "models/mvdream/linked").symlink_to(base / "models/mvdream/small")
    try:
        options = nodes["LoadMVDream"].define_schema().inputs[0].options
    finally:
        inside.unlink()
        inside.parent.rmdir()
        (base / "models/mvdream/linked").unlink()
    assert options[:2] == ["toys (bundled)", "tiny (bundled)"] and set(options[2:5]) == {"linked", "small", "mine/original.pt"}
    assert not [name for name in options if name.startswith("small/")]


def test_errors_are_one_sentence_without_a_chain(run, ball):
    with pytest.raises(ValueError) as caught:
        run("ViewsFromImages", images=ball[:1])
    assert caught.value.__suppress_context__ and "\n" not in str(caught.value)
