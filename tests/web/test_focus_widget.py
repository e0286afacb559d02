"""The focus widget with hands on it: mouse, wheel, keyboard, undo, prompt edits, bad input, long prompts, accessibility."""

from __future__ import annotations

import json

import pytest

from gd_core.attention import prompt_words, read_prompt

PROMPT = "a red cube next to a blue sphere"


class Node:
    """A Focus Prompt node on the page."""

    def __init__(self, page, prompt=PROMPT, focus=""):
        self.page = page
        page.evaluate("([prompt, focus]) => { host.addNode({prompt, focus}) }", [prompt, focus])
        page.wait_for_selector(".gd-focus")
        self.until_answered(prompt)

    def until_answered(self, prompt: str) -> None:
        """The server's words of a prompt are shown."""
        if prompt.strip():
            count = len(prompt_words(read_prompt(prompt).text))
            self.page.wait_for_function(f"document.querySelectorAll('.gd-chip:not(.gd-stale)').length === {min(count, 300)}")
        self.next_frame()

    def next_frame(self) -> None:
        """The widget draws in the frame after a change: wait until that frame is over."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def chip(self, key: str):
        return self.page.locator(f'.gd-chip[data-key="{key}"]')

    @property
    def value(self) -> str:
        return self.page.evaluate("host.app.graph.nodes[0].widgets[1].value")

    @property
    def weights(self) -> dict[str, float]:
        """Listed words with their weights, as a reader of the JSON sees them."""
        return {entry["word"]: entry["weight"] for entry in json.loads(self.value)["focus"]}

    @property
    def undo_steps(self) -> int:
        return self.page.evaluate("host.undoSteps()")

    def undo(self) -> None:
        self.page.evaluate("host.undo()")
        self.next_frame()

    def send(self, **changes) -> None:
        self.page.evaluate("changes => host.send(host.examplePayload(changes))", changes)

    def settle(self) -> None:
        """Let pending frames and the wheel's rest pass: on the page's own clock, which fires timers in their order."""
        self.page.evaluate("() => new Promise(done => setTimeout(done, 450))")


@pytest.fixture
def node(page):
    return Node(page)


def focused_keys(page) -> list[str]:
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.eval_on_selector_all(".gd-chip.gd-focused", "chips => chips.map(chip => chip.dataset.key)")


def test_subjects_are_marked_before_any_touch_and_nothing_is_written(node, page):
    assert focused_keys(page) == ["cube", "sphere"]
    assert node.value == ""
    assert page.locator(".gd-mode").text_content() == "automatic"


def test_click_toggles_and_writes_one_undo_step(node, page):
    node.chip("red").click()
    assert node.weights == {"red": 1, "cube": 1, "sphere": 1}
    page.wait_for_timeout(450)  # until it can no longer become a double click
    assert node.undo_steps == 1
    page.wait_for_timeout(600)  # a new click, not a double one
    node.chip("red").click()
    assert node.value == ""  # what automatic would choose is automatic: nothing runs again
    node.settle()
    assert node.undo_steps == 2
    node.undo()
    assert focused_keys(page) == ["red", "cube", "sphere"]
    node.undo()
    assert node.value == ""


def test_toggling_back_remembers_the_weight(node, page):
    node.chip("cube").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("Enter")
    assert "cube" not in node.weights
    page.keyboard.press("Enter")
    assert node.weights["cube"] == 1.5


def test_drag_sets_the_weight_within_bounds_as_one_undo_step(node, page):
    box = node.chip("cube").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=3)
    page.mouse.move(x + 30, y, steps=3)
    assert node.weights["cube"] == 1.5
    page.mouse.up()
    assert node.undo_steps == 1
    assert node.weights == {"cube": 1.5, "sphere": 1}  # and the click that ends a drag toggled nothing
    for to, weight in ((250, 3), (-250, 0)):
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + to, y, steps=2)
        page.mouse.up()
        assert node.weights["cube"] == weight
    assert "gd-zero" in node.chip("cube").get_attribute("class")
    node.undo()
    node.undo()
    assert node.weights["cube"] == 1.5


def test_drag_counts_the_widgets_pixels_when_the_canvas_is_zoomed(node, page):
    page.evaluate("document.body.style.transform = 'scale(0.5)'")
    box = node.chip("cube").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 15, y, steps=3)
    page.mouse.up()
    assert node.weights["cube"] == 1.5


def test_escape_takes_a_drag_back(node, page):
    node.chip("red").focus()
    box = node.chip("red").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 65, box["y"] + 5, steps=3)
    assert node.weights["red"] == 1
    page.keyboard.press("Escape")
    page.mouse.up()
    assert node.value == ""
    assert node.undo_steps == 0


def test_wheel_turns_the_weight_and_a_burst_is_one_undo_step(node, page):
    node.settle()
    node.chip("sphere").hover()
    page.evaluate(
        """() => {
            const turn = () => new WheelEvent("wheel", {bubbles: true, cancelable: true, deltaY: -100});
            for (let i = 0; i < 3; i++) document.querySelector('[data-key="sphere"]').dispatchEvent(turn());
        }"""
    )
    node.settle()
    assert node.weights == {"cube": 1, "sphere": 1.3}
    assert node.undo_steps == 1
    page.mouse.wheel(0, 100)
    node.settle()
    assert node.weights["sphere"] == 1.2
    assert node.undo_steps == 2


def test_a_wheel_turn_that_began_elsewhere_changes_nothing(node, page):
    node.chip("sphere").hover()
    page.evaluate(
        """() => {
            const turn = (target, more) => target.dispatchEvent(
              new WheelEvent("wheel", {bubbles: true, cancelable: true, deltaY: -100, ...more}));
            turn(document.body);
            for (let i = 0; i < 5; i++) turn(document.querySelector('[data-key="sphere"]'));
        }"""
    )
    node.settle()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    node.settle()
    assert node.value == ""


@pytest.mark.parametrize(("word", "key", "before"), [("cube", "PageUp", 1.5), ("red", "ArrowUp", 0.1), ("sphere", "2", 2)])
def test_double_click_resets_as_one_undo_step(node, page, word, key, before):
    node.chip(word).focus()
    page.keyboard.press(key)
    page.keyboard.press("Tab")  # a typed weight ends with it
    assert node.weights[word] == before
    steps = node.undo_steps
    node.chip(word).dblclick()
    node.settle()
    assert node.value == ""
    assert node.undo_steps == steps + 1
    node.undo()
    assert node.weights[word] == before


def test_a_double_click_that_changes_nothing_is_no_undo_step(node, page):
    node.chip("cube").dblclick()
    node.settle()
    assert node.value == "" and node.undo_steps == 0


@pytest.mark.parametrize(("typed", "weight"), [("2", 2), ("0", 0), ("1.25", 1.25), (".5", 0.5), ("9", 3)])
def test_digits_set_the_weight(node, page, typed, weight):
    node.chip("red").focus()
    for sign in typed:
        page.keyboard.press(sign)
    assert node.weights["red"] == weight
    node.page.wait_for_timeout(1100)
    assert node.undo_steps == 1
    page.keyboard.press("1")  # a new number
    assert node.weights["red"] == 1


LONG = "a cat, " + ", ".join(f"a red dog number {i}" for i in range(60))


def test_the_wheel_scrolls_the_list_and_weighs_focused_chips_only(page):
    node = Node(page, LONG, '{"v":1,"focus":[{"word":"cat","weight":1}]}')
    node.settle()
    scrolled = "document.querySelector('.gd-chips').scrollTop"
    node.chip("red").hover()
    page.mouse.wheel(0, 60)
    node.settle()
    assert page.evaluate(scrolled) == 60 and node.weights == {"cat": 1}
    page.mouse.wheel(0, -60)
    node.settle()
    assert page.evaluate(scrolled) == 0
    node.chip("cat").hover()
    page.mouse.wheel(0, -60)
    node.settle()
    assert page.evaluate(scrolled) == 0 and node.weights == {"cat": 1.1}


def test_a_wheel_over_a_word_without_focus_leaves_automatic_alone(node, page):
    page.evaluate("window.heard = 0; window.addEventListener('wheel', event => heard += !event.defaultPrevented)")
    for word in ("red", "next", "blue"):
        node.chip(word).hover()
        page.mouse.wheel(0, -100)
        node.settle()
    assert node.value == "" and page.evaluate("heard") == 3  # nothing to scroll: the canvas zooms


def test_the_chip_area_grows_with_the_prompt(node, page):
    height = "host.app.graph.nodes[0].widgets[1].options.getMinHeight()"
    heights = []
    for count in (1, 4, 6, 36):
        page.locator(".prompt").fill("a red cube and a blue sphere " * count)
        node.until_answered("a red cube and a blue sphere " * count)
        heights.append(page.evaluate(height))
    assert heights[0] < heights[1] < heights[2] <= heights[3] < heights[0] + 300


def test_one_line_says_what_one_can_do(node, page):
    assert page.locator(".gd-hint").is_visible()
    assert all(word in page.locator(".gd-hint").text_content() for word in ("Click", "wheel", "0 to 3", "Double-click"))


def test_the_panel_does_not_take_the_widget_and_no_row_is_left(node, page):
    assert page.evaluate("host.app.graph.nodes[0].widgets[1].options.hideInPanel") is True


def test_weights_in_the_text_are_shown_and_can_be_overruled(page):
    node = Node(page, "a (red:1.3) cube and a (((blue))) sphere")
    assert focused_keys(page) == ["red", "cube", "blue", "sphere"]
    assert node.chip("red").locator(".gd-weight").text_content() == "1.3" and node.value == ""
    assert node.chip("red").get_attribute("title") == "weight from the prompt's own text"
    node.chip("red").click()
    assert node.weights["red"] == 0 and "blue" not in node.weights
    assert "gd-zero" in node.chip("red").get_attribute("class")
    page.locator(".prompt").fill("a (red:2) cube and a sphere")
    node.settle()
    assert node.chip("red").locator(".gd-weight").text_content() == "0"  # the chip's own choice stands above the text


@pytest.mark.parametrize("foreign", ["embedding:toy", "BREAK", "[red:blue:0.5]"])
def test_foreign_syntax_gets_its_sentence(page, foreign):
    Node(page, f"a cube {foreign}")
    notice = page.locator(".gd-notice-line")
    assert notice.count() == 1 and notice.text_content().endswith(".")


def test_words_that_the_connected_model_does_not_know_are_underlined(page):
    page.evaluate(
        """() => {
            const slot = {name: "model", widget: {name: "model"}, link: null};
            const loader = {id: 2, type: "GroundedDreamerLoadMVDream", inputs: [slot], widgets: [
              {name: "model", value: "tiny (bundled)"}]};
            const lora = {id: 3, type: "Lora", inputs: [{name: "model", type: "GD_MODEL", link: 1}], widgets: []};
            const inputs = [{name: "model", type: "GD_MODEL", link: 2}, {name: "prompt", link: 3}];
            const sampler = {id: 4, inputs, widgets: []};
            const node = host.addNode({prompt: "a red giraffe and a spheer"});
            node.outputs = [{type: "GD_PROMPT", links: [3]}];
            for (const one of [loader, lora, sampler]) one.graph = host.app.graph;
            host.app.graph.nodes.push(loader, lora, sampler);
            host.app.graph.links = {1: {origin_id: 2, target_id: 3}, 2: {origin_id: 3, target_id: 4},
                                    3: {origin_id: 5, target_id: 4}};
            node.onConnectionsChange();
        }"""
    )
    page.wait_for_selector('.gd-unknown[data-key="spheer"]')
    assert page.eval_on_selector_all(".gd-unknown", "all => all.map(e => e.dataset.key)") == ["giraffe", "spheer"]
    assert page.locator(".gd-notice").text_content() == "This model does not know “giraffe”, “spheer” (“sphere”?)."
    page.evaluate("() => { host.app.graph.nodes[1].widgets[0].value = 'mvdream.pt' }")
    page.locator(".gd-title").hover()
    page.wait_for_function("!document.querySelector('.gd-unknown')")


def test_keyboard_alone_does_everything(node, page):
    page.locator(".prompt").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.key") == "a"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.key") == "cube"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    assert node.weights == {"cube": 1.1, "sphere": 1}
    assert node.undo_steps == 3
    page.keyboard.press("Space")
    assert node.weights == {"sphere": 1}
    page.keyboard.press("Delete")
    assert node.value == "", "what equals the automatic choice is the automatic choice"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.key") == "sphere"
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    assert node.weights["sphere"] == 0
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.dataset.key") == "a"
    # One chip is in the tab order, and it is the one that was used last.
    assert page.eval_on_selector_all('.gd-chip[tabindex="0"]', "chips => chips.map(chip => chip.dataset.key)") == ["a"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.className") == "prompt"


def test_keys_meant_for_a_chip_do_not_reach_the_graph(node, page):
    page.evaluate("window.heard = []; window.addEventListener('keydown', event => heard.push(event.key))")
    node.chip("cube").focus()
    for key in ("Delete", "Space", "ArrowUp", "ArrowLeft", "Enter", "Backspace", "x", "Control+z"):
        page.keyboard.press(key)
    assert page.evaluate("heard") == ["x", "Control", "z"]


def test_undo_gives_the_keyboard_back_to_the_chip(node, page):
    node.chip("cube").focus()
    page.keyboard.press("ArrowUp")
    node.undo()
    page.wait_for_function("document.activeElement.dataset.key === 'cube'")
    assert node.value == ""


def test_undo_replaces_an_element_that_the_page_did_not_change(node, page):
    node.chip("cube").focus()
    page.keyboard.press("ArrowUp")
    page.evaluate("host.undo({keepsElements: true})")
    page.wait_for_function("document.querySelector('[data-key=cube] .gd-weight').textContent === '1'")
    page.wait_for_function("document.activeElement.dataset.key === 'cube'")
    page.keyboard.press("ArrowUp")
    assert node.weights["cube"] == 1.1


def test_editing_the_prompt_keeps_weights_and_shows_stale_words(node, page):
    node.chip("cube").focus()
    page.keyboard.press("PageUp")
    page.locator(".prompt").fill("a green pyramid and a red sphere, a sphere")
    page.wait_for_selector('.gd-stale[data-key="cube"]')
    assert node.weights == {"cube": 1.5, "sphere": 1}
    assert page.locator(".gd-notice").text_content() == "Not in the prompt, and left out of the run: cube."
    assert page.locator(".gd-chip").last.get_attribute("data-key") == "cube"
    assert focused_keys(page) == ["sphere", "cube"]
    assert "gd-suggested" in node.chip("pyramid").get_attribute("class")
    page.locator(".prompt").fill(PROMPT)
    page.wait_for_selector('.gd-chip[data-key="cube"]:not(.gd-stale)')
    assert node.chip("cube").locator(".gd-weight").text_content() == "1.5"


def test_a_stale_chip_is_removed_by_its_button_or_by_delete(page):
    focus = '{"v":1,"focus":[{"word":"dog","weight":2},{"word":"cat"},{"word":"cube"}]}'
    node = Node(page, focus=focus)
    assert node.value == focus  # showing a state never rewrites it
    node.chip("dog").get_by_role("button", name="Remove dog").click()
    assert node.weights == {"cube": 1, "cat": 1}
    node.chip("cat").focus()
    page.keyboard.press("Delete")
    assert node.weights == {"cube": 1}
    assert page.evaluate("document.activeElement.dataset.key") == "sphere"


def test_automatic_again_is_one_step_of_undo(node, page):
    node.chip("red").click()
    page.get_by_role("button", name="Automatic").click()
    assert node.value == ""
    assert focused_keys(page) == ["cube", "sphere"]
    node.undo()
    assert node.weights == {"red": 1, "cube": 1, "sphere": 1}


@pytest.mark.parametrize("text", ["{", "[]", '{"v":2,"focus":[]}', '{"v":1,"focus":[{"word":"cube","weight":"x"}]}'])
def test_a_malformed_state_is_shown_and_kept_until_one_starts_over(page, text):
    node = Node(page, focus=text)
    assert "cannot be read" in page.locator(".gd-notice").text_content()
    node.chip("cube").click()
    assert node.value == text
    page.get_by_role("button", name="Start over").click()
    assert node.value == ""
    assert not page.locator(".gd-notice").is_visible()
    node.undo()
    assert node.value == text


def test_prompt_text_is_never_markup(page):
    prompt = '<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script> "><b data-key=x>'
    node = Node(page, prompt, '{"v":1,"focus":[{"word":"<img src=x onerror=window.hacked=1>"}]}')
    node.settle()
    assert page.evaluate("window.hacked") is None
    assert page.locator(".gd-focus img[src='x'], .gd-focus script, .gd-focus b").count() == 0
    assert page.locator(".gd-stale .gd-word").text_content() == "<img src=x onerror=window.hacked=1>"


def test_a_prompt_of_ten_thousand_characters_does_not_freeze_the_page(node, page):
    frames, elements = page.evaluate(
        """async () => {
            const area = document.querySelector(".prompt");
            const ask = window.requestAnimationFrame, make = document.createElement;
            let frames = 0, elements = 0;
            window.requestAnimationFrame = draw => (frames++, ask(draw));
            document.createElement = function (...name) { elements++; return make.apply(this, name); };
            for (const extra of ["", "x", "xy", "xyz"]) {
              area.value = "a small red cube " + extra + "and a blue sphere ".repeat(600);
              area.dispatchEvent(new Event("input"));
              await new Promise(done => ask(() => setTimeout(done)));
            }
            window.requestAnimationFrame = ask;
            document.createElement = make;
            return [frames, elements];
        }"""
    )
    assert frames <= 8 and elements < 20_000, "a key press draws once or twice, and no more than the chips that are shown"
    assert page.locator(".gd-chip").count() < 1200
    page.wait_for_function("document.querySelector('.gd-notice').textContent.includes('more words')")


def test_the_servers_words_win(page):
    page.evaluate(
        """() => { host.server.answers["/grounded_dreamer/words"] = () => ({words: [
            {word: "a", occurrence: 0, subject: false}, {word: "red", label: "RED", occurrence: 0, subject: true, focus: 1},
            {word: "cube", occurrence: 0}]}) }"""
    )
    Node(page, "a RED cube")
    page.wait_for_selector('.gd-focused[data-key="red"]')
    assert focused_keys(page) == ["red"]
    assert page.locator('[data-key="red"] .gd-word').text_content() == "RED"
    requests = page.evaluate("host.server.requests.filter(request => request.route.endsWith('/words'))")
    assert requests == [{"route": "/grounded_dreamer/words", "body": {"text": "a RED cube", "model": None}}]


def test_without_a_server_the_last_answer_stays_and_it_is_asked_again(node, page):
    page.evaluate("() => { host.server.kept = host.server.answers; host.server.answers = {} }")
    page.locator(".prompt").fill("a green cone")
    node.settle()
    assert focused_keys(page) == ["cube", "sphere"]
    page.evaluate("() => { host.server.answers = host.server.kept }")
    page.wait_for_selector('.gd-focused[data-key="cone"]')


def test_a_linked_focus_input_locks_the_chips(node, page):
    page.evaluate("() => { const n = host.app.graph.nodes[0]; n.inputs[0].link = 7; n.onConnectionsChange() }")
    page.wait_for_selector(".gd-locked")
    node.chip("cube").click(force=True)
    node.chip("cube").focus()
    page.keyboard.press("ArrowUp")
    assert node.value == ""
    assert node.chip("cube").get_attribute("aria-disabled") == "true"


def test_a_linked_prompt_shows_its_words_after_the_run(node, page):
    page.evaluate("() => { const n = host.app.graph.nodes[0]; n.inputs[1].link = 7; n.onConnectionsChange() }")
    page.wait_for_function("document.querySelectorAll('.gd-chip').length === 0")
    assert "another node" in page.locator(".gd-notice").text_content()
    page.evaluate("() => host.app.graph.nodes[0].onExecuted({gd_prompt: ['a green cone']})")
    page.wait_for_selector('.gd-focused[data-key="cone"]')


LINKED = """upstream => {
    const [node] = host.app.graph.nodes;
    node.inputs[1].link = 7;
    host.app.graph.links = {7: {origin_id: 9, origin_slot: 0, target_id: 5}, 8: {origin_id: 10, target_id: 9}};
    const make = (id, extra) => host.app.graph.nodes.push({id, graph: host.app.graph, inputs: [], widgets: [], ...extra});
    const text = value => ({name: "value", type: "customtext", value});
    if (upstream === "primitive") make(9, {widgets: [text("a green cone")]});
    if (upstream === "reroute") {
      make(9, {type: "Reroute", inputs: [{name: "", link: 8}]});
      make(10, {widgets: [text("a green cone")]});
    }
    if (upstream === "computed") {
      make(9, {widgets: [text("instruction")], inputs: [{name: "seed", link: 8}]});
      make(10, {});
    }
    if (upstream === "two texts") make(9, {widgets: [text("a green"), {...text("cone"), name: "other"}]});
    if (upstream === "a list") make(9, {widgets: [{name: "style", type: "combo", value: "toy"}]});
    node.onConnectionsChange();
}"""


@pytest.mark.parametrize("upstream", ["primitive", "reroute"])
def test_a_linked_text_that_can_be_read_shows_its_words_before_the_first_run(node, page, upstream):
    page.evaluate(LINKED, upstream)
    page.wait_for_selector('.gd-focused[data-key="cone"]')
    node.chip("green").click()
    assert node.weights == {"green": 1, "cone": 1}  # own weights work on a linked prompt
    page.evaluate("() => { host.app.graph.nodes.at(-1).widgets[0].value = 'a red torus' }")
    page.wait_for_selector('.gd-chip[data-key="torus"]')  # and follow what stands upstream


@pytest.mark.parametrize("upstream", ["computed", "two texts", "a list"])
def test_a_linked_text_that_only_a_run_can_tell_is_awaited(node, page, upstream):
    page.evaluate(LINKED, upstream)
    page.wait_for_function("document.querySelectorAll('.gd-chip').length === 0")
    assert "another node" in page.locator(".gd-notice").text_content()


def test_a_text_upstream_that_is_not_the_prompt_is_not_taken_for_it(node, page):
    page.evaluate(LINKED, "primitive")
    page.wait_for_selector('.gd-focused[data-key="cone"]')
    page.evaluate("() => host.app.graph.nodes[0].onExecuted({gd_prompt: ['a torus of stone']})")
    page.wait_for_selector('.gd-focused[data-key="torus"]')


def test_every_chip_says_what_it_is(node, page):
    node.chip("red").focus()
    page.keyboard.press("ArrowUp")
    spoken = page.eval_on_selector_all(
        ".gd-chip",
        "chips => chips.map(c => [c.getAttribute('role'), c.ariaLabel, c.ariaValueNow, c.ariaValueText])",
    )
    assert ["slider", "red", "0.1", "focused, weight 0.1"] in spoken
    assert ["slider", "next", "0", "not focused"] in spoken
    assert ["slider", "a (2)", "0", "not focused"] in spoken
    described = "document.querySelector('.gd-chip').getAttribute('aria-describedby')"
    assert "Up, Down and digits" in page.evaluate(f"document.getElementById({described}).textContent")
    unnamed = "button:not([hidden])"
    assert all(page.eval_on_selector_all(f".gd-focus {unnamed}", "all => all.map(b => b.textContent || b.ariaLabel)"))


CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const rgb = (...layers) => {
      canvas.clearRect(0, 0, 1, 1);
      for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
      return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255);
    };
    const light = channels => channels.map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const root = document.querySelector(".gd-focus");
    const found = [];
    for (const element of root.querySelectorAll("*")) {
      const text = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
      if (!text || !element.offsetParent || element.closest(".gd-hidden")) continue;
      const colours = [], fills = [];
      for (let at = element; at !== root.parentElement; at = at.parentElement) {
        const style = getComputedStyle(at);
        colours.unshift(style.backgroundColor);
        const drawn = parseFloat(style.backgroundSize) > 0;
        const fill = drawn && style.backgroundImage.match(/linear-gradient\\(((?:color|oklab|rgba?)\\([^)]*\\))/);
        if (fill && !at.classList.contains("gd-ramp")) fills.push(fill[1]);
      }
      const colour = getComputedStyle(element).color;
      for (const layers of [colours, ...fills.map(fill => [...colours, fill])]) {
        const back = rgb(...layers);
        found.push([element.className + ": " + element.textContent, ratio(rgb(...layers, colour), back)]);
      }
    }
    return found;
}"""


@pytest.mark.parametrize("theme", ["", "light"])
def test_text_stands_out_in_dark_and_light(page, theme):
    page.evaluate("theme => { document.documentElement.className = theme }", theme)
    node = Node(page, focus='{"v":1,"focus":[{"word":"cube","weight":1.2},{"word":"red","weight":0},{"word":"dog"}]}')
    node.send()
    node.settle()
    page.locator('[data-view="1"]').hover()
    ranked = page.evaluate(CONTRAST)
    node.chip("cube").hover()
    node.settle()
    found = ranked + page.evaluate(CONTRAST)
    assert len(found) > 30
    assert [item for item in found if item[1] < 4.5] == []


def test_reduced_motion_is_respected(browser, page):
    Node(page)
    page.emulate_media(reduced_motion="reduce")
    durations = page.eval_on_selector_all(".gd-focus *", "all => all.map(e => getComputedStyle(e).transitionDuration)")
    assert set(durations) == {"0s"}


def test_the_widget_speaks_chinese(page):
    page.evaluate("document.documentElement.lang = 'zh'")
    Node(page)
    assert page.locator(".gd-title").text_content() == "\u805a\u7126"
    names = page.evaluate(
        """async () => { const {TEXTS} = await import("/extensions/grounded-dreamer/focus_text.mjs");
            return [Object.keys(TEXTS.en), Object.keys(TEXTS.zh)]; }"""
    )
    assert names[0] == names[1]


# ---- live attention


def test_live_bars_stand_against_the_threshold(node, page):
    node.send()
    page.wait_for_selector('[data-key="cube"] .gd-met')
    meter = node.chip("cube").locator(".gd-meter")
    assert meter.evaluate("e => ['live', 'threshold'].map(name => e.style.getPropertyValue(`--gd-${name}`))") == ["0.83", "0.5"]
    assert node.chip("sphere").locator(".gd-meter.gd-met").count() == 0
    assert node.chip("cube").get_attribute("aria-valuetext") == "focused, weight 1, attention 0.83 of 0.50 asked"
    assert page.locator(".gd-step").text_content() == "step 9 of 30"
    node.send(state="done", step=30, threshold=None)
    page.wait_for_function("document.querySelector('.gd-step').textContent === ''")
    assert node.chip("sphere").get_attribute("aria-valuetext") == "focused, weight 1, attention 0.41"


def test_without_a_threshold_there_is_a_bar_and_no_mark(node, page):
    mark = "e => getComputedStyle(e, '::after').content"
    meter = node.chip("cube").locator(".gd-meter")
    node.send(threshold=None)
    page.wait_for_selector('[data-key="cube"] .gd-meter:not([hidden])')
    assert meter.evaluate(mark) == "none" and page.locator(".gd-met").count() == 0
    assert node.chip("cube").get_attribute("aria-valuetext") == "focused, weight 1, attention 0.83"
    node.chip("cube").hover()
    assert page.locator(".gd-legend-amount").text_content() == "attention 0.83"
    node.send(threshold=0.6)
    page.wait_for_selector('[data-key="cube"] .gd-met')
    assert meter.evaluate(mark) == '""'


def test_hovering_a_chip_lays_its_map_over_all_views(node, page):
    node.send()
    page.wait_for_selector(".gd-view-image:not([hidden])")
    node.chip("cube").hover()
    assert page.locator(".gd-heat.gd-on").count() == 4
    hottest = page.eval_on_selector_all(
        ".gd-heat",
        """all => all.map(canvas => {
            const {data, width} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let best = 0;
            for (let i = 0; i < data.length; i += 4) if (data[i] + data[i + 1] > data[best] + data[best + 1]) best = i;
            return (best / 4) % width;
        })""",
    )
    assert [column < 8 for column in hottest] == [True, True, False, False]  # the cube is on the other side seen from behind
    assert "attention 0.83 / 0.50" in page.locator(".gd-caption").text_content()
    node.chip("next").hover()
    assert page.locator(".gd-heat.gd-on").count() == 0
    assert "No heat map" in page.locator(".gd-caption").text_content()
    page.mouse.move(5, 5)
    assert "Point at a word" in page.locator(".gd-caption").text_content()
    page.locator(".prompt").focus()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.locator(".gd-heat.gd-on").count() == 4  # the keyboard's focus shows the map too


def test_the_pages_tooltip_does_not_cover_what_is_pointed_at(node, page):
    node.send()
    page.wait_for_selector(".gd-view-image:not([hidden])")
    page.evaluate("document.body.append(Object.assign(document.createElement('div'), {className: 'p-tooltip'}))")
    shown = "() => getComputedStyle(document.querySelector('.p-tooltip')).visibility"
    node.chip("cube").hover()
    assert page.evaluate(shown) == "hidden"
    page.locator(".gd-title").hover()
    assert page.evaluate(shown) == "visible"
    page.locator(".gd-view").first.hover()
    assert page.evaluate(shown) == "hidden"


def test_hovering_a_pixel_ranks_the_words_there(node, page):
    node.send()
    page.wait_for_selector(".gd-view-image:not([hidden])")
    box = page.locator('[data-view="0"]').bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.72, box["y"] + box["height"] * 0.55)
    assert page.locator(".gd-rank-word").first.text_content() == "sphere"
    assert "gd-top" in node.chip("sphere").get_attribute("class")
    shares = [int(text.rstrip("%")) for text in page.locator(".gd-rank-share").all_text_contents()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 101
    page.mouse.move(5, 5)
    assert page.locator(".gd-top").count() == 0


def test_hovering_a_pixel_lights_the_chips_by_what_they_do_there(node, page):
    node.send()
    page.wait_for_selector(".gd-view-image:not([hidden])")
    box = page.locator('[data-view="0"]').bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.72, box["y"] + box["height"] * 0.55)
    lit = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('.gd-lit')].map((e) => "
        "[e.textContent.trim(), Number(e.style.getPropertyValue('--gd-here'))]))"
    )
    labels = page.locator(".gd-rank-word").all_text_contents()
    shares = [int(text.rstrip("%")) for text in page.locator(".gd-rank-share").all_text_contents()]
    assert len(lit) >= 2 and max(lit.values()) == 1
    for label, share in zip(labels, shares, strict=True):
        here = next(value for text, value in lit.items() if label in text)
        assert abs(here - share / shares[0]) < 0.03, (label, lit)
    top = page.locator(".gd-top")
    assert top.count() == 1 and "sphere" in top.text_content()
    page.mouse.move(5, 5)
    assert page.locator(".gd-lit").count() == 0


def test_arrow_keys_rank_words_too_and_are_spoken(node, page):
    node.send()
    page.wait_for_selector(".gd-view-image:not([hidden])")
    page.locator('[data-view="0"]').focus()
    for _ in range(16):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.view") == "1"
    spoken = page.locator(".gd-strip [aria-live]").text_content()
    assert "%" in spoken


def test_the_strip_stays_after_the_run_undo_and_edits(node, page):
    node.send(state="done")
    page.wait_for_selector(".gd-view-image:not([hidden])")
    node.chip("red").click()
    node.undo()
    page.wait_for_selector(".gd-view-image:not([hidden])")
    assert page.locator(".gd-view-image:not([hidden])").count() == 4
    page.mouse.move(5, 5)
    page.locator(".prompt").fill("a red cube next to a blue cone")
    page.wait_for_function("document.querySelector('.gd-caption').textContent.includes('earlier')")


def test_the_strip_survives_a_reload(page):
    page.evaluate(
        """() => { const run = host.examplePayload({state: "done"});
                   host.server.answers["/grounded_dreamer/attention"] = () => run }"""
    )
    Node(page, PROMPT + "\n")
    page.wait_for_selector(".gd-view-image:not([hidden])")
    asked = page.evaluate("host.server.requests.find(request => request.route.endsWith('/attention')).body")
    assert asked == {"workflow": "w1", "node": "5", "prompt": PROMPT}


@pytest.mark.parametrize(
    "changes", [{"workflow": "w2"}, {"node": "6"}, {"workflow": None, "prompt": "a red cube next to a green cone"}]
)
def test_another_workflows_views_are_not_shown(node, page, changes):
    node.send(**changes)
    node.settle()
    assert page.locator(".gd-view-image:not([hidden])").count() == 0
    page.evaluate("() => { host.app.graph.id = 'w2' }")
    if changes.get("workflow") == "w2":  # its own tab
        node.send(**changes)
        page.wait_for_selector(".gd-view-image:not([hidden])")


def test_undo_to_an_earlier_prompt_brings_back_the_views_that_it_made(node, page):
    node.send(state="done", run="first")
    page.wait_for_selector(".gd-view-image:not([hidden])")
    node.chip("red").click()
    node.settle()
    page.locator(".prompt").fill("a green cone")
    node.until_answered("a green cone")
    node.undo()
    page.wait_for_selector(".gd-view-image:not([hidden])")


@pytest.mark.parametrize(
    ("state", "says"), [("failed", "The run failed."), ("interrupted", "Interrupted."), ("done", "Point at a word")]
)
def test_the_strip_says_how_the_run_ended(node, page, state, says):
    node.send(state=state)
    page.wait_for_selector(f'.gd-strip[data-state="{state}"]')
    page.mouse.move(5, 5)
    assert page.locator(".gd-caption").text_content().startswith(says)


def test_other_peoples_events_are_ignored(node, page):
    node.send(node="6")
    node.send(node="5:1")
    node.send(v=2)
    page.evaluate(
        """() => {
            for (const junk of [null, {}, {node: 5}, {node: "5", v: 1, run: "r", words: 7}]) host.send(junk);
            host.send(host.examplePayload({workflow: "w2"}));  // the node of this id in another workflow
        }"""
    )
    node.settle()
    assert page.locator(".gd-view-image:not([hidden])").count() == 0
    assert page.locator(".gd-meter").count() == 0


def test_a_node_inside_a_subgraph_is_known_by_its_path(node, page):
    page.evaluate(
        """() => {
            const [inner] = host.app.graph.nodes;
            inner.graph = {nodes: [inner], getNodeById: id => id === 5 ? inner : undefined};
            host.app.graph.nodes = [{id: 12, widgets: [], subgraph: inner.graph}];
        }"""
    )
    node.send(node="5")
    node.send(node="12:6")
    node.settle()
    assert page.locator(".gd-view-image:not([hidden])").count() == 0
    node.send(node="12:5")
    page.wait_for_selector(".gd-view-image:not([hidden])")


def test_many_events_are_drawn_once_a_frame(node, page):
    frames = page.evaluate(
        """async () => {
            const payload = host.examplePayload(), ask = window.requestAnimationFrame;
            let frames = 0;
            window.requestAnimationFrame = draw => (frames++, ask(draw));
            for (let step = 0; step < 200; step++) host.send({...payload, step});
            window.requestAnimationFrame = ask;
            await new Promise(done => ask(() => setTimeout(done)));
            return frames;
        }"""
    )
    assert frames == 1
    assert page.locator(".gd-step").text_content() == "step 199 of 30"


def test_a_removed_node_leaves_nothing_behind(node, page):
    page.evaluate("() => { host.app.graph.nodes[0].remove(); host.app.graph.nodes.length = 0 }")
    node.send()
    page.mouse.move(200, 200)
    page.mouse.wheel(0, -100)
    node.settle()
    assert page.locator(".gd-focus").count() == 0
