"use strict";

// What the page does besides: starts the charts, filters the verdicts, copies the command.

function startCharts() {
  for (const place of document.querySelectorAll(".charts")) {
    const charts = [...place.querySelectorAll("script")].map((data) => JSON.parse(data.textContent));
    const names = [...new Set(charts.flatMap((chart) => chart.traces.map((trace) => trace.name)))];
    for (const data of charts) {
      const box = html("div", { class: "chart" }, place);
      if (data.title) html("h3", {}, box, data.title);
      new CurveChart(box, data, names, [data.title, place.dataset.alternative].filter(Boolean).join(". "));
    }
    place.parentElement.querySelector("details.picture")?.removeAttribute("open");
  }
}

/** Shows all verdicts, those that passed, or those that failed, as the page's address says: `#failed`. */
function startFilter() {
  const filter = document.querySelector(".filter");
  if (!filter) return;
  const buttons = [...filter.querySelectorAll("button")];
  const verdicts = [...document.querySelectorAll("[data-verdict]")];
  const show = (wanted) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.show === wanted));
    for (const verdict of verdicts) verdict.hidden = wanted !== "all" && verdict.dataset.verdict !== wanted;
    const shown = verdicts.filter((verdict) => !verdict.hidden).length;
    filter.querySelector("[role=status]").textContent = `${shown} of ${verdicts.length} shown`;
  };
  const asked = () => buttons.map((button) => button.dataset.show).find((name) => `#${name}` === location.hash);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      history.replaceState(null, "", `#${button.dataset.show}`);
      show(button.dataset.show);
    });
  }
  addEventListener("hashchange", () => asked() && show(asked()));
  filter.hidden = false;
  show(asked() ?? "all");
  if (asked()) filter.parentElement.scrollIntoView();
}

/** Copies the command; where the browser does not allow that, marks it, so that the keyboard can. */
function startCopying() {
  for (const button of document.querySelectorAll("button.copy")) {
    const source = document.getElementById(button.dataset.copies);
    button.hidden = false;
    button.addEventListener("click", async () => {
      const told = button.parentElement.querySelector("[role=status]");
      try {
        await navigator.clipboard.writeText(source.textContent);
        told.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(source);
        told.textContent = "marked: press Ctrl+C or ⌘C";
      }
    });
  }
}

startCharts();
startFilter();
startCopying();
