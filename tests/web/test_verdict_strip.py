"""The sampler's strip: chips for subjects, rows for the starts that were tried."""

from __future__ import annotations

import pytest


@pytest.fixture
def strip(page):
    page.evaluate("() => { host.addSampler() }")
    page.wait_for_selector(".gd-verdicts", state="attached")
    return page


def tell(page, **changes):
    page.evaluate("changes => host.sendVerdicts(host.exampleVerdicts(changes))", changes)


def test_nothing_is_shown_before_a_run(strip):
    assert strip.locator(".gd-verdicts").is_hidden()
    assert strip.evaluate("host.app.graph.nodes[0].widgets.at(-1).options.getMinHeight()") == 0


def test_a_chip_says_of_each_subject_what_the_model_says(strip):
    tell(strip)
    chips = strip.locator(".gd-verdict")
    assert chips.all_inner_texts() == ["red cube there (98 %)", "blue <b>sphere</b> missing (20 %)"], "names are text"
    assert "gd-missing" in chips.nth(1).get_attribute("class")
    tell(strip, verdicts=[{"name": "cube", "word": "there", "probability": None}])
    assert strip.locator(".gd-verdict").all_inner_texts() == ["cube there (not calibrated)"]


def test_candidates_with_their_scores_and_the_one_that_goes_on(strip):
    tell(strip)
    rows = strip.locator(".gd-start")
    assert rows.all_inner_texts() == ["seed 0 · 30 %", "seed 1000000 goes on · 88 %"]
    assert "gd-won" in rows.nth(1).get_attribute("class")
    assert strip.locator(".gd-start img").count() == 1, "a payload makes the page fetch nothing"


def test_the_result_of_the_node_is_shown(strip):
    strip.evaluate("() => host.app.graph.nodes[0].onExecuted({gd_verdicts: [host.exampleVerdicts({candidates: []})]})")
    assert strip.locator(".gd-verdict").count() == 2 and strip.locator(".gd-start").count() == 0


def test_undo_which_rebuilds_all_nodes_keeps_the_strip(strip):
    tell(strip)
    strip.evaluate("() => host.rebuildSamplers()")
    assert strip.locator(".gd-verdict").count() == 2 and strip.locator(".gd-start").count() == 2


def test_what_was_told_of_another_workflow_waits_for_it(strip):
    tell(strip, workflow="w2")
    assert strip.locator(".gd-verdict").count() == 0
    strip.evaluate("() => { host.app.graph.id = 'w2'; host.rebuildSamplers() }")
    assert strip.locator(".gd-verdict").count() == 2


def test_outputs_that_the_page_gets_back_are_shown(strip):
    strip.evaluate("() => host.giveBackOutputs({9: {gd_verdicts: [host.exampleVerdicts()]}, 77: {}, 5: null})")
    assert strip.locator(".gd-verdict").count() == 2


@pytest.mark.parametrize("payload", [None, {"v": 2}, {"v": 1, "node": "9", "workflow": "other"}, {"v": 1, "node": "77"}])
def test_what_is_meant_for_others_changes_nothing(strip, payload):
    tell(strip)
    strip.evaluate("payload => host.sendVerdicts(payload)", payload)
    assert strip.locator(".gd-verdict").count() == 2


def test_the_widget_is_no_part_of_a_workflow(strip):
    assert strip.evaluate("host.app.graph.nodes[0].widgets.at(-1).serialize") is False
