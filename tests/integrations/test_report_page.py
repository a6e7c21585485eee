"""The report page in a real browser: what a reader can do with it, on a desktop and on a phone, in light and dark."""

import re
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, expect, sync_playwright

from l2o.curves import Curves
from l2o.evaluation.charts import Chart, beside, trace, write_charts
from l2o.evaluation.compare import Comparison
from l2o.evaluation.plots import plot_curves
from l2o.evaluation.results import Compared, Description, Shown, render, write_description
from l2o.evaluation.tuning import Tuning
from l2o.evaluation.verdicts import Verdict, write_verdicts
from scripts import browser as installed

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
STEPS = 600
REASON = "There is no logarithmic y axis, as some values of “ln loss” are negative."
COMMAND = "l2o reproduce paper/figure --preset smoke"
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}

expect.set_options(timeout=30_000)  # milliseconds; a busy machine is slow


@pytest.fixture(scope="module")
def losses() -> dict[str, np.ndarray]:
    """Four optimizers, `[runs, steps + 1]` each; two runs of SGD fail."""
    noise = np.exp(np.random.default_rng(0).normal(0, 0.1, (6, STEPS + 1)))
    slopes = {"learned": 5.0, "Adam, tuned for final": 3.0, "SGD, tuned for final": 2.0, "Adam, tuned for area": 2.5}
    curves = {name: noise * np.exp(-np.linspace(0, slope, STEPS + 1)) for name, slope in slopes.items()}
    curves["SGD, tuned for final"][:2, 400:] = np.nan
    return curves


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, losses: dict[str, np.ndarray]) -> str:
    """A folder of results with a comparison, a figure of ln losses, and hostile names; the address of its page."""
    folder = tmp_path_factory.mktemp("results") / "a folder & more"
    comparison = Comparison({n: Curves(torch.from_numpy(v), {}, 601, 1e-3, 8) for n, v in losses.items()}, "bowl", 1)
    comparison.save(folder / "curves.npz")
    plot_curves(losses, path=folder / "curves.png", title="bowl", learned=["learned"])
    plot_curves(losses, path=folder / "ln.png", title="ln", scale="linear")
    x = np.arange(1.0, 101.0)
    lines = [trace(name, x, slope * np.log(x), slope * np.log(x) - 1, slope * np.log(x) + 1) for name, slope in
             (("learned", -1.0), (HOSTILE, -0.5))]  # fmt: skip
    write_charts(beside(folder / "ln.png"), [Chart("ln", "step", "ln loss", lines, [HOSTILE], yscale="linear")])
    tunings = {n: Tuning(n.split()[-1], 0.1, {0.1: 1.5}, 202, 4, 0, False) for n in losses if n != "learned"}  # pyright: ignore
    write_description(
        folder,
        Description(
            experiment=f"paper/{'a-very-long-name-without-any-space' * 3}",
            preset="smoke",
            summary=HOSTILE,
            command=COMMAND,
            configuration={f"setting {place}": place for place in range(30)},
            data=["https://" + "long" * 40],
            backend="reference",
            figures=[Shown("curves.png", "Curves", "Losses going down."), Shown("ln.png", HOSTILE, HOSTILE)],
            comparisons=[Compared("curves.npz", "Bowls", tunings)],
        ),
    )
    verdicts = [Verdict(f"claim {place}", "below 0", -0.5, 6, place != 1, (-0.6, -0.4)) for place in range(4)]
    write_verdicts(
        folder / "verdict.json", verdicts, experiment="paper/figure", preset="smoke", seeds=[1], seconds=90.0,
        commit="abc", machine="this one",
    )  # fmt: skip
    return render(folder).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = installed.find()
    if path is None:
        pytest.fail(installed.REMEDY)
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens the page; afterwards, nothing but the page was asked for, and nothing was complained about."""
    contexts, complaints, requests = [], [], []

    def open_page(part: str = "", **options) -> Page:
        contexts.append(browser.new_context(**{"viewport": DESKTOP, **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address + part)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.partition("#")[0] for url in requests if not url.startswith("data:")} == {address}


@pytest.fixture
def page(opened: Callable[..., Page]) -> Page:
    return opened()


def ticks(page: Page, axis: str, chart: int = 0) -> list[str]:
    found = page.locator(".chart").nth(chart).locator(f".tick.{axis}")
    expect(found.first).to_be_attached(timeout=60_000)  # a busy machine draws late
    return found.all_text_contents()


def numbers(page: Page, axis: str) -> list[float]:
    return [float(text.replace(",", "")) for text in ticks(page, axis)]


def corner(page: Page, across: float, down: float) -> tuple[float, float]:
    """A place in the box of the first chart, in shares of it, on the screen."""
    page.locator(".plot").first.scroll_into_view_if_needed()
    plot, frame = page.locator(".plot").first.bounding_box(), page.locator(".chart .frame").first.bounding_box()
    assert plot is not None
    assert frame is not None
    return frame["x"] + across * frame["width"], frame["y"] + down * frame["height"]


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def press(page: Page, name: str, chart: int = 0) -> None:
    page.locator(".chart").nth(chart).get_by_role("button", name=name, exact=False).click()


def wait_until(page: Page, expression: str) -> None:
    """Waits for a condition, which `Page.wait_for_function` would have evaluated as the policy of the page forbids."""
    end = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never: {expression}"
        page.wait_for_timeout(20)


def test_dragging_zooms_and_a_double_click_shows_everything_again(page: Page) -> None:
    whole, heights = numbers(page, "x"), ticks(page, "y")
    assert (min(whole), max(whole)) == (0, STEPS)
    drag(page, corner(page, 0.25, 0.5), corner(page, 0.5, 0.51))
    part = numbers(page, "x")
    assert min(part) >= 0.24 * STEPS
    assert max(part) <= 0.51 * STEPS
    assert ticks(page, "y") != heights  # fitted to what is left
    page.mouse.dblclick(*corner(page, 0.5, 0.5))
    assert numbers(page, "x") == whole
    assert ticks(page, "y") == heights


def test_dragging_over_a_rectangle_zooms_both_axes(page: Page) -> None:
    press(page, "log y")
    high = max(numbers(page, "y"))
    drag(page, corner(page, 0.1, 0.6), corner(page, 0.4, 0.9))
    assert max(numbers(page, "x")) <= 0.41 * STEPS
    assert max(numbers(page, "y")) <= 0.5 * high


def test_the_wheel_zooms_a_chart_that_was_clicked_and_scrolls_the_page_otherwise(page: Page) -> None:
    whole = numbers(page, "x")
    place = corner(page, 0.5, 0.5)
    page.mouse.move(*place)
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 120)
    wait_until(page, f"scrollY != {before}")
    assert numbers(page, "x") == whole
    page.mouse.click(*corner(page, 0.5, 0.5))
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, -700)
    wait_until(page, "document.querySelector('.tick.x').textContent !== '0'")
    assert np.ptp(numbers(page, "x")) < 0.4 * STEPS
    assert page.evaluate("scrollY") == before


def test_two_fingers_zoom_and_one_reads(opened: Callable[..., Page]) -> None:
    page = opened(viewport=PHONE, has_touch=True, is_mobile=True)
    whole = numbers(page, "x")
    page.touchscreen.tap(*corner(page, 0.5, 0.5))
    assert re.fullmatch(r"at step \d+", page.locator(".reading").first.inner_text())
    x, y = corner(page, 0.5, 0.5)
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *places: float) -> None:
        points = [{"x": place, "y": y, "id": number} for number, place in enumerate(places)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", x - 20)
    touch("touchStart", x - 20, x + 20)
    for apart in (30, 50, 80):
        touch("touchMove", x - apart, x + apart)
    touch("touchEnd")
    wait_until(page, "document.querySelector('.tick.x').textContent !== '0'")
    assert np.ptp(numbers(page, "x")) < 0.5 * np.ptp(whole)
    assert page.evaluate("visualViewport.scale") == 1  # the page itself is not larger


def test_buttons_and_keys_zoom_move_and_reset(page: Page) -> None:
    whole = numbers(page, "x")
    page.locator(".chart").first.get_by_role("button", name="zoom in").focus()
    page.keyboard.press("Enter")
    middle = numbers(page, "x")
    assert np.ptp(middle) <= 0.5 * STEPS
    press(page, "move right")
    assert max(numbers(page, "x")) == STEPS
    press(page, "move left")
    assert numbers(page, "x") == middle
    press(page, "zoom out")
    assert numbers(page, "x") == whole
    page.locator(".plot").first.focus()
    page.keyboard.press("+")
    assert numbers(page, "x") == middle
    page.keyboard.press("0")
    assert numbers(page, "x") == whole
    page.keyboard.press("+")
    press(page, "reset")
    assert numbers(page, "x") == whole


def test_a_curve_is_hidden_and_shown_by_its_name(page: Page) -> None:
    chart = page.locator(".chart").first
    curve, button = chart.locator("[data-name='learned']"), chart.get_by_role("button", name="learned")
    lowest = min(numbers(page, "y"))
    expect(curve).to_have_count(1)
    expect(button).to_have_attribute("aria-pressed", "true")
    bands = chart.locator(".band").count()
    button.focus()
    page.keyboard.press("Space")
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(curve).to_have_count(0)
    assert chart.locator(".band").count() == bands - 1
    assert min(numbers(page, "y")) > lowest  # the others need less
    button.click()
    expect(curve).to_have_count(1)
    assert min(numbers(page, "y")) == lowest


def test_baselines_tuned_for_another_measure_are_drawn_when_asked_for(page: Page) -> None:
    curve = page.locator(".chart").first.locator("[data-name='Adam, tuned for area']")
    expect(curve).to_have_count(0)
    press(page, "Adam, tuned for area")
    expect(curve).to_have_count(1)


def test_curves_differ_in_colour_and_in_mark_and_failures_are_crossed(page: Page) -> None:
    press(page, "Adam, tuned for area")
    curves = page.locator(".chart").first.locator(".curve")
    looks = curves.evaluate_all(
        """curves => curves.map(curve => [
            getComputedStyle(curve.querySelector('.line')).stroke,
            curve.querySelector('.shape').getAttribute('d').replace(/[-\\d.]+/g, '').length
                + ':' + curve.querySelector('.shape').getBBox().width.toFixed(1),
        ])"""
    )
    assert len(looks) == 4
    assert len({colour for colour, _ in looks}) == 4
    assert len({mark for _, mark in looks}) == 4
    assert page.locator(".chart").first.locator(".cross").count() == 1  # two runs fail at the same step
    expect(page.get_by_role("button", name="SGD, tuned for final")).to_contain_text("2 of 6 diverged")
    dashes = page.locator("[data-name='SGD, tuned for final'] .line").evaluate_all(
        "lines => lines.map(line => getComputedStyle(line).strokeDasharray)"
    )
    assert [dash == "none" for dash in dashes] == [True, False]


def test_switches_make_axes_logarithmic_and_linear(page: Page) -> None:
    before = numbers(page, "y")
    assert np.ptp(np.diff(np.log10(before))) < 0.5  # even steps of the logarithm, or 1, 2, 5
    switch = page.locator(".chart").first.get_by_role("button", name="log y")
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "false")
    after = numbers(page, "y")
    np.testing.assert_allclose(np.diff(after), np.diff(after)[0], rtol=1e-9)
    assert after != before
    assert numbers(page, "x")[0] == 0
    press(page, "log x")
    assert [text for text in ticks(page, "x") if text in ("1", "10", "100")] == ["1", "10", "100"]
    expect(page.locator(".chart").first).to_contain_text("step (0 has no place here)")
    press(page, "log x")
    assert numbers(page, "x")[0] == 0


def test_a_logarithm_of_negative_values_is_refused_with_the_reason(page: Page) -> None:
    chart = page.locator(".chart").nth(1)
    switch, before = chart.get_by_role("button", name="log y"), ticks(page, "y", 1)
    expect(switch).to_have_attribute("aria-disabled", "true")
    expect(switch).to_have_accessible_description(REASON)
    switch.click(force=True)
    assert ticks(page, "y", 1) == before
    press(page, "log x", 1)
    assert ticks(page, "x", 1)[0] == "1"


def test_pointing_at_the_chart_shows_the_values_there(page: Page, losses: dict[str, np.ndarray]) -> None:
    page.mouse.move(*corner(page, 0.5, 0.5))
    chart = page.locator(".chart").first
    step = int(chart.locator(".reading").inner_text().removeprefix("at step "))
    assert abs(step - STEPS / 2) <= 3
    value = chart.locator("li", has_text="learned").locator(".value").inner_text()
    mean, low, high = map(float, re.findall(r"[\d.]+", value))
    assert mean == pytest.approx(losses["learned"][:, step].mean(), rel=1e-3)
    assert low < mean < high
    assert chart.locator(".pointer circle").count() == 3
    page.mouse.move(5, 5)
    expect(chart.locator(".reading")).to_have_text("")


def test_arrow_keys_read_the_values_aloud(page: Page) -> None:
    page.locator(".plot").first.focus()
    page.keyboard.press("ArrowRight")
    spoken = page.locator("[aria-live=polite]").first
    first = int(re.match(r"at step (\d+): learned 0\.\d+ \[", spoken.inner_text())[1])  # pyright: ignore
    page.keyboard.press("ArrowRight")
    second = int(re.match(r"at step (\d+):", spoken.inner_text())[1])  # pyright: ignore
    assert first < second <= first + 3
    page.keyboard.press("ArrowLeft")
    assert spoken.inner_text().startswith(f"at step {first}:")


def shown_verdicts(page: Page) -> list[str]:
    return page.locator(".verdicts li:visible .claim").all_inner_texts()


def test_the_filter_shows_the_verdicts_asked_for_and_says_so_in_the_address(page: Page) -> None:
    assert len(shown_verdicts(page)) == 4
    for name, count in (("all", 4), ("passed", 3), ("failed", 1)):
        expect(page.get_by_role("button", name=f"{name} {count}")).to_be_visible()
    page.get_by_role("button", name="failed 1").focus()
    page.keyboard.press("Enter")
    assert shown_verdicts(page) == ["claim 1"]
    assert page.url.endswith("#failed")
    expect(page.get_by_role("button", name="failed 1")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".filter [role=status]")).to_have_text("1 of 4 shown")
    page.get_by_role("button", name="passed 3").click()
    assert shown_verdicts(page) == ["claim 0", "claim 2", "claim 3"]
    page.get_by_role("button", name="all 4").click()
    assert len(shown_verdicts(page)) == 4


def test_a_link_can_point_to_what_failed(opened: Callable[..., Page]) -> None:
    page = opened("#failed")
    assert shown_verdicts(page) == ["claim 1"]
    page.evaluate("location.hash = 'passed'")
    expect(page.locator(".verdicts li:visible")).to_have_count(3)
    assert len(shown_verdicts(opened("#something-else"))) == 4


@pytest.mark.parametrize("viewport", [PHONE, {"width": 740, "height": 360}, DESKTOP])
def test_the_page_never_scrolls_sideways_but_tables_do_in_their_box(opened: Callable[..., Page], viewport) -> None:
    page = opened(viewport=viewport, has_touch=viewport != DESKTOP, is_mobile=viewport != DESKTOP)
    page.get_by_text("31 settings").click()
    page.get_by_text("As a picture").first.click()
    page.mouse.click(*corner(page, 0.5, 0.5))  # shows values
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    outside = page.evaluate(
        """() => [...document.querySelectorAll('main *, header *')]
            .filter(each => !each.closest('.scroll > *') && !each.closest('svg'))
            .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth)
            .map(each => each.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    if viewport == PHONE:
        box = page.locator(".scroll").first
        assert box.evaluate("box => box.scrollWidth - box.clientWidth") > 100


def test_buttons_are_large_enough_for_fingers(opened: Callable[..., Page]) -> None:
    page = opened(viewport=PHONE, has_touch=True, is_mobile=True)
    sizes = page.locator("button:visible").evaluate_all("all => all.map(each => [each.offsetWidth, each.offsetHeight])")
    assert len(sizes) > 15
    assert min(min(size) for size in sizes) >= 34


CONTRASTS = """() => {
  const number = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, part) => {
    const value = colour[part] / 255;
    return sum + weight * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  }, 0);
  const behind = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const colour = number(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const ratio = (colour, each) => {
    const [low, high] = [light(colour), light(behind(each))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = { texts: [], curves: [] };
  for (const each of document.querySelectorAll('body *')) {
    if (each.closest('script, style, .unseen') || !each.getClientRects().length) continue;
    const own = [...each.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const style = getComputedStyle(each);
    if (own) {
      const colour = number(each.closest('svg') ? style.fill : style.color);
      found.texts.push([ratio(colour, each), each.textContent.trim().slice(0, 40)]);
    }
    if (each.matches('.curve .line, .curve .shape, .curve .cross, .frame')) {
      found.curves.push([ratio(number(style.stroke), each.closest('.plot')), each.outerHTML.slice(0, 60)]);
    }
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_have_contrast_in_both_schemes(opened: Callable[..., Page], scheme: str) -> None:
    page = opened(color_scheme=scheme)
    page.get_by_text("31 settings").click()
    press(page, "Adam, tuned for area")
    page.mouse.move(*corner(page, 0.5, 0.5))
    page.get_by_role("button", name="failed 1").hover()
    found = page.evaluate(CONTRASTS)
    assert len(found["texts"]) > 150
    assert len(found["curves"]) > 20
    assert [each for each in found["texts"] if each[0] < 4.5] == []
    assert [each for each in found["curves"] if each[0] < 3.0] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(245, 246, 248)", "dark": "rgb(18, 22, 29)"}[scheme]


def test_what_the_keyboard_is_on_can_be_seen_and_everything_can_be_reached(page: Page) -> None:
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        told = page.evaluate(
            """() => {
              const each = document.activeElement, style = getComputedStyle(each);
              return [each.tagName, each.className, style.outlineStyle, parseFloat(style.outlineWidth)];
            }"""
        )
        if told[0] == "BODY":
            break
        assert told[2] == "solid"
        assert told[3] >= 2
        reached.append(told[0] + (f".{told[1]}" if told[1] else ""))
    else:
        pytest.fail("the keyboard never left the page")
    everything = page.locator("button:visible, summary:visible, a:visible, [tabindex='0']:visible").count()
    assert len(reached) == everything
    assert {"BUTTON", "DIV.plot", "DIV.scroll", "SUMMARY", "A", "PRE", "BUTTON.copy"} <= set(reached)


def test_nothing_moves_by_itself(opened: Callable[..., Page]) -> None:
    page = opened(reduced_motion="reduce")
    assert page.evaluate("document.getAnimations().length") == 0
    moving = page.evaluate(
        """() => [...document.querySelectorAll('*')].map(each => getComputedStyle(each))
            .filter(style => style.transitionDuration !== '0s' || style.animationName !== 'none'
                || style.scrollBehavior === 'smooth').length"""
    )
    assert moving == 0


def test_the_command_is_copied(opened: Callable[..., Page]) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the command").click()
    expect(page.locator(".beside [role=status]")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == COMMAND


def test_where_copying_is_not_allowed_the_command_is_marked(page: Page) -> None:
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    page.get_by_role("button", name="Copy the command").click()
    expect(page.locator(".beside [role=status]")).to_contain_text("Ctrl+C")
    assert page.evaluate("getSelection().toString().trim()") == COMMAND


def test_links_lead_to_files_that_are_there(page: Page, address: str) -> None:
    links = page.locator("a").evaluate_all("all => all.map(each => [each.getAttribute('href'), each.href])")
    assert {name for name, _ in links} >= {"config.json", "verdict.json", "curves.npz"}
    for name, target in links:
        assert target == address.removesuffix("report.html") + name
    assert page.evaluate("getComputedStyle(document.querySelector('a')).textDecorationLine") == "underline"


def test_without_javascript_the_pictures_and_all_verdicts_are_there(opened: Callable[..., Page]) -> None:
    page = opened(java_script_enabled=False)
    for place in range(2):
        expect(page.locator("figure img").nth(place)).to_be_visible()
    expect(page.locator(".verdicts li:visible")).to_have_count(4)
    expect(page.locator("button:visible")).to_have_count(0)


def test_with_javascript_the_picture_is_folded_away(page: Page) -> None:
    expect(page.locator("figure img").first).to_be_hidden()
    page.get_by_text("As a picture").first.click()
    expect(page.locator("figure img").first).to_be_visible()


def test_hostile_names_are_shown_as_the_words_they_are(page: Page) -> None:
    expect(page.get_by_role("button", name=HOSTILE)).to_be_visible()
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    assert page.locator("img").count() == 2
    assert page.locator("body script:not([type])").count() == 5


def test_ticks_texts_and_ranges_are_what_they_should_be(page: Page) -> None:
    for call, answer in (
        ("ticks('linear', [0, 1], 5)", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("ticks('linear', [-3, 4], 4)", [-2, 0, 2, 4]),
        ("ticks('log', [0.5, 2000], 6)", [1, 10, 100, 1000]),
        ("ticks('log', [1e-9, 1e3], 5)", [1e-9, 1e-6, 1e-3, 1, 1e3]),
        ("ticks('log', [3, 30], 6)", [5, 10, 20]),
        ("ticks('log', [2.1, 2.5], 4)", [2.1, 2.2, 2.3, 2.4, 2.5]),
        ("[0, 0.5, 1].map(value => tickText(value, [0, 0.5, 1]))", ["0", "0.5", "1"]),
        ("[1e-7, 2e6, -3, 1200].map(value => tickText(value, [1, 2]))", ["10⁻⁷", "2·10⁶", "-3", "1,200"]),
        ("[0.123456, 1e-9, 12345, null, 0].map(numberText)", ["0.1235", "10⁻⁹", "12,345", "none", "0"]),
        ("zoomed('linear', [0, 100], 0.5, 50, [0, 100])", [25, 75]),
        ("zoomed('linear', [25, 75], 4, 50, [0, 100])", [0, 100]),
        ("zoomed('log', [1, 100], 0.5, 10, [1, 100]).map(value => value * value)", [10, 1000]),
        ("moved('linear', [25, 75], 2, [0, 100])", [50, 100]),
        ("[4.4, 4.6, 99, -1].map(value => nearest([1, 4, 5, 7], value))", [1, 2, 3, 0]),
    ):
        found = page.evaluate(call)
        assert found == (answer if isinstance(answer[0], str) else pytest.approx(answer, rel=1e-12)), call
