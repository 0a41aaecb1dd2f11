// Follow a report until it is there. follow() is in shop.js, which comes first.
"use strict";

function followReport(page) {
  function show(report) {
    if (report.finished) {
      window.location.reload();
      return 0;
    }
    page.querySelector("[data-words]").textContent = report.words;
    page.querySelector("[data-bar]").max = report.of;
    page.querySelector("[data-bar]").value = report.done;
    page.querySelector("[data-again]").hidden = !report.stuck;
    return 700;
  }

  if (page.dataset.finished === "no") {
    follow(page, page.dataset.report, show);
  }
}

document.querySelectorAll("[data-report]").forEach(followReport);
