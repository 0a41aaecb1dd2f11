// Brings the page up to date every few seconds, without what somebody is working on.
"use strict";
(() => {
  const PERIOD = 5000;
  const SLOW = 6; // the charts come with every sixth look
  let looks = 0;

  const busy = (part) =>
    part.contains(document.activeElement) && document.activeElement.matches("select, input, button, summary, pre") ||
    part.querySelector("input:checked, details[open]") !== null;

  const stale = (text) => {
    const line = document.getElementById("fresh");
    line.classList.add("stale");
    line.textContent = text;
  };

  const look = async () => {
    if (document.hidden) return;
    looks += 1;
    const address = new URL(location.href);
    const slow = looks % SLOW === 0;
    if (!slow) address.searchParams.set("without", "charts");
    const before = document.getElementById("fresh").dataset.since || new Date().toTimeString().slice(0, 8);
    let answer;
    try {
      answer = await fetch(address, { credentials: "same-origin", headers: { Accept: "text/html" } });
    } catch {
      stale("the site does not answer; trying again");
      return;
    }
    if (document.querySelector("[data-away]")) {
      if (answer.ok) location.reload();
      return;
    }
    if (answer.redirected) return stale("you are logged out; load the page again");
    if (!answer.ok) return stale(`not up to date since ${before}: ${answer.status === 503 ? "PostgreSQL cannot be asked" : `answer ${answer.status}`}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (!next || busy(part) || (part.dataset.live === "slow" && !slow)) continue;
      if (part.innerHTML !== next.innerHTML) part.replaceChildren(...next.childNodes);
    }
    const line = document.getElementById("fresh");
    line.classList.remove("stale");
    line.replaceChildren(...fresh.getElementById("fresh").childNodes);
    line.dataset.since = fresh.getElementById("now")?.textContent || "";
  };

  if (document.querySelector("[data-live], [data-away]")) setInterval(look, PERIOD);
})();
