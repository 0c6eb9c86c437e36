"use strict";
// Each page works without this. With it tables sort, numbers renew themselves, and positions change as they are written.

function keyOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.v ?? cell.textContent.trim();
}

function compare(one, other, direction) {
  const [a, b] = [one, other].map((text) => (text === "" || text === "-" ? NaN : Number(text.replaceAll(",", ""))));
  if (isNaN(a) && isNaN(b)) return direction * one.localeCompare(other);
  if (isNaN(a) || isNaN(b)) return isNaN(a) ? 1 : -1; // What is no number comes last either way.
  return direction * (a - b);
}

function sortable(table) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    if (head.querySelector(".hidden") || head.querySelector("a")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falls = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("th[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(keyOf(a, column), keyOf(b, column), falls ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}

function renewing(part) {
  const renew = async () => {
    // Whoever reads or selects there is left alone.
    const isUsed = document.hidden || part.contains(document.activeElement) || !getSelection().isCollapsed;
    if (!isUsed) {
      try {
        const answer = await fetch(location.href, { headers: { accept: "text/html" } });
        if (answer.ok) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          const opened = [...part.querySelectorAll("details[open]")].map((each) => each.id);
          const fresh = page.getElementById(part.id);
          if (!fresh) return location.reload(); // What was waited for is there, and more than this part.
          part.dataset.refresh = fresh.dataset.refresh;
          part.replaceChildren(...fresh.childNodes);
          opened.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
        }
      } catch { /* The server is away; the next turn asks again. */ }
    }
    later();
  };
  const later = () => setTimeout(renew, Number(part.dataset.refresh) * 1000);
  later();
}

function living(table) {
  const body = table.tBodies[0], how = document.getElementById("how"), trouble = document.getElementById("trouble");
  const holder = document.createElement("template");
  const show = (change) => {
    const old = document.getElementById(change.id);
    if (change.html === null) { old?.remove(); return; }
    holder.innerHTML = change.html; // The server has escaped every value in it.
    const row = holder.content.firstElementChild;
    row.className = "changed";
    if (old) old.replaceWith(row);
    else if (table.dataset.first === "0") body.prepend(row);
    while (body.rows.length > Number(table.dataset.rows)) body.lastElementChild.remove();
  };
  const address = new URL(table.dataset.live, location.href);
  let feed = null;
  const rest = () => { feed?.close(); feed = null; };
  const follow = () => {
    feed = new EventSource(address);
    feed.onopen = () => { how.textContent = "Live."; };
    feed.onerror = () => {
      how.textContent = "The connection is lost; it is tried again.";
      // After an answer that is no stream a browser gives up by itself.
      if (feed.readyState === EventSource.CLOSED) { rest(); setTimeout(() => { if (!feed && !document.hidden) follow(); }, 3000); }
    };
    feed.addEventListener("reload", () => { rest(); setTimeout(() => location.reload(), 1000); });
    feed.onmessage = heard;
  };
  const heard = (message) => {
    address.searchParams.set("since", message.lastEventId);
    const told = JSON.parse(message.data);
    told.rows.forEach(show);
    document.getElementById("open").textContent = told.open.toLocaleString("en");
    document.getElementById("waiting").textContent = told.waiting.toLocaleString("en");
    document.getElementById("read").textContent = told.read;
    document.getElementById("empty").hidden = body.rows.length > 0;
    trouble.textContent = told.trouble;
    trouble.hidden = told.trouble === "";
  };
  // A page that nobody sees takes none of the few connections that a browser has for a server.
  document.addEventListener("visibilitychange", () => { rest(); if (!document.hidden) follow(); });
  addEventListener("pagehide", rest);
  follow();
}

document.querySelectorAll("table.sorts").forEach(sortable);
document.querySelectorAll("[data-refresh]").forEach(renewing);
document.querySelectorAll("table[data-live]").forEach(living);
