// What pages do by themselves: count the crate, and follow an order, or whatever else goes on.
"use strict";

function money(cents) {
  return "€" + (cents / 100).toFixed(2);
}

function followCrate(form) {
  const steppers = [...form.querySelectorAll("[data-stepper]")];
  const count = form.querySelector("[data-count]");
  const total = form.querySelector("[data-total]");

  function renew() {
    let roots = 0;
    let cents = 0;
    for (const stepper of steppers) {
      const quantity = Math.max(0, parseInt(stepper.querySelector("input").value, 10) || 0);
      roots += quantity;
      cents += quantity * Number(stepper.dataset.cents);
      stepper.closest(".root").classList.toggle("chosen", quantity > 0);
    }
    count.textContent = roots ? roots + (roots === 1 ? " root" : " roots") : "Choose a few roots";
    total.textContent = roots ? money(cents) : "";
  }

  for (const stepper of steppers) {
    const input = stepper.querySelector("input");
    const name = stepper.closest(".root").querySelector("h2").textContent;
    for (const [sign, change, place, verb] of [["−", -1, "afterbegin", "less"], ["+", 1, "beforeend", "more"]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = sign;
      button.setAttribute("aria-label", "One " + name + " " + verb);
      button.addEventListener("click", () => {
        const value = (parseInt(input.value, 10) || 0) + change;
        input.value = Math.min(Number(input.max), Math.max(0, value)) || "";
        renew();
      });
      stepper.insertAdjacentElement(place, button);
    }
    stepper.classList.add("ready");
    input.addEventListener("input", renew);
  }
  form.addEventListener("submit", () => {
    const button = form.querySelector("button[type=submit]");
    button.disabled = true;
    button.textContent = "One moment…";
  });
  // After "back" the browser shows the old form again.
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) {
      window.location.reload();
    }
  });
  renew();
}

// Asks for JSON again and again. show(answer) says in how many milliseconds to ask next, or 0 to end.
function follow(page, url, show) {
  let missed = 0;

  async function ask() {
    let pause;
    try {
      const answer = await fetch(url, { headers: { Accept: "application/json" } });
      if (!answer.ok) {
        throw new Error("status " + answer.status);
      }
      pause = show(await answer.json());
      missed = 0;
    } catch {
      missed += 1;
      pause = Math.min(1000 * missed, 10000);
    }
    page.querySelector("[data-lost]").hidden = missed < 3;
    if (pause) {
      window.setTimeout(ask, pause);
    }
  }

  window.setTimeout(ask, 400);
}

function followOrder(page) {
  let after = 0;

  function show(order) {
    page.dataset.step = order.step;
    page.dataset.finished = order.finished ? "yes" : "no";
    page.querySelector("[data-headline]").textContent = order.headline;
    for (const stage of order.stages) {
      const line = page.querySelector('[data-stage="' + stage.key + '"]');
      line.className = "stage " + stage.state;
      line.querySelector("[data-text]").textContent = stage.text;
      line.querySelector("[data-at]").textContent = stage.at || "";
    }
    const messages = page.querySelector("[data-messages]");
    for (const message of order.messages.slice(messages.children.length)) {
      const line = document.createElement("li");
      const time = document.createElement("time");
      time.textContent = message.at;
      line.append(time, " " + message.text);
      messages.append(line);
    }
    const crate = page.querySelector("[data-crate]");
    if (order.crate && crate.hidden) {
      crate.querySelector("img").src = order.crate.url;
      crate.querySelector("[data-side]").textContent = order.crate.side_cm + " × " + order.crate.side_cm;
      crate.hidden = false;
    }
    const invoice = page.querySelector("[data-invoice]");
    if (order.invoice && invoice.hidden) {
      invoice.querySelector("a").href = order.invoice.url;
      invoice.hidden = false;
    }
    if (!order.finished) {
      return 900;
    }
    // A last message may follow.
    after += 1;
    return after <= 12 ? 5000 : 0;
  }

  if (page.dataset.finished === "no") {
    follow(page, page.dataset.order, show);
  }
}

document.querySelectorAll("[data-order-form]").forEach(followCrate);
document.querySelectorAll("[data-order]").forEach(followOrder);
