// Follow a report until it is there.
"use strict";

function followReport(page) {
  const pause = 700;
  let missed = 0;

  async function ask() {
    try {
      const answer = await fetch(page.dataset.report, { headers: { Accept: "application/json" } });
      if (!answer.ok) {
        throw new Error("status " + answer.status);
      }
      const report = await answer.json();
      missed = 0;
      if (report.finished) {
        window.location.reload();
        return;
      }
      page.querySelector("[data-words]").textContent = report.words;
      page.querySelector("[data-bar]").max = report.of;
      page.querySelector("[data-bar]").value = report.done;
      page.querySelector("[data-again]").hidden = !report.stuck;
    } catch {
      missed += 1;
    }
    page.querySelector("[data-lost]").hidden = missed < 3;
    window.setTimeout(ask, Math.min(pause * (missed + 1), 10000));
  }

  if (page.dataset.finished === "no") {
    window.setTimeout(ask, pause / 2);
  }
}

document.querySelectorAll("[data-report]").forEach(followReport);
