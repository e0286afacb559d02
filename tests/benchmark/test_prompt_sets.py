import json
import re

import pytest

from gd_core.benchmark import bundled_sets, load_prompts

VOCABULARY = set(
    "cube sphere cylinder cone torus ball box ring red orange yellow green cyan blue purple pink small big "
    "next to beside on top of and near a an".split()
)


def test_the_benchmark_has_what_it_says():
    assert bundled_sets() == ["abstract", "compositional", "many_subjects", "tiny"]
    compositional = load_prompts("compositional")
    assert len(compositional) == 100 and {len(p.subjects) for p in compositional.prompts} == {2}
    assert sorted(p.group for p in compositional.prompts) == ["animals"] * 50 + ["objects"] * 50
    many = load_prompts("many_subjects")
    assert len(many) == 50 and {len(p.subjects) for p in many.prompts} == set(range(3, 11))
    assert all(p.group == f"{len(p.subjects)} subjects" for p in many.prompts)
    assert len(load_prompts("abstract")) == 20


def test_the_tiny_set_keeps_to_its_words():
    for prompt in load_prompts("tiny").prompts:
        assert set(re.findall(r"[a-z]+", prompt.text)) <= VOCABULARY, prompt
        assert {"one": 1, "two": 2, "three": 3}[prompt.group.split()[0]] == len(prompt.subjects)


def test_a_smaller_set_keeps_every_group():
    head = load_prompts("tiny").head(8)
    assert len(head) == 8
    assert sorted(p.group for p in head.prompts) == sorted(["one subject"] * 2 + ["two subjects"] * 4 + ["three subjects"] * 2)
    with pytest.raises(ValueError, match="80 prompts, 81"):
        load_prompts("tiny").head(81)


def test_a_text_file_is_one_prompt_a_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a cat  on a mat\na dog\n")
    assert [(p.id, p.text) for p in load_prompts(path).prompts] == [("line-001", "a cat on a mat"), ("line-002", "a dog")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("blank.txt", "a cat\n\na dog\n   \na cow\n", "line 2, 4 of .* blank"),
        ("empty.txt", "", "blank"),
        ("twice.txt", "a cat\na dog\nA  cat\n", "line 3 of .* repeats line 1"),
        ("broken.json", "{", "not of the form"),
        ("list.json", "[]", "not of the form"),
        ("textless.json", json.dumps({"prompts": [{"id": "a"}]}), "not of the form"),
        ("subject.json", json.dumps({"prompts": [{"text": "a cat", "subjects": ["dog"]}]}), "'dog' is not in the prompt"),
        ("id.json", json.dumps({"prompts": [{"text": "a cat", "id": "../up"}]}), "letters, digits"),
        ("ids.json", json.dumps({"prompts": [{"text": "a", "id": "x"}, {"text": "b", "id": "X"}]}), "the same id"),
        ("none.json", json.dumps({"prompts": []}), "empty"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_prompts(tmp_path / name)


def test_an_unknown_set_lists_the_known():
    with pytest.raises(ValueError, match="no prompt set 'nonsense': give one of abstract, compositional"):
        load_prompts("nonsense")
