// Makes the preview quick to use by hand. Without it the pages still read, search and turn: they are plain links and forms.
(() => {
  "use strict";
  const root = document.documentElement;
  const isFile = root.dataset.mode === "file";
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Light, dark, or as the system has it; set before anything is painted.
  const themes = ["", "light", "dark"];
  const words = { "": "as the system has them", light: "light", dark: "dark" };
  const signs = { "": "◐", light: "☀", dark: "☾" };
  const setTheme = (theme) => {
    if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
    const button = find("#theme");
    if (!button) return;
    button.hidden = false;
    button.textContent = signs[theme];
    button.setAttribute("aria-label", `Colours: ${words[theme]}`);
    button.title = `Colours: ${words[theme]} (key d)`;
  };
  const kept = () => {
    try { const theme = localStorage.getItem("theme"); return themes.includes(theme) ? theme : ""; } catch { return ""; }
  };
  const turnTheme = () => {
    const theme = themes[(themes.indexOf(root.dataset.theme || "") + 1) % themes.length];
    try { localStorage.setItem("theme", theme); } catch { /* a file's page may have no storage */ }
    setTheme(theme);
    say(`Colours: ${words[theme]}`);
  };
  setTheme(kept());

  const say = (text) => { find("#live").textContent = text; };

  // What shearing cut off
  const toggleTail = () => {
    const button = find("#tail");
    if (!button) return;
    const off = root.dataset.tail !== "off";
    if (off) root.dataset.tail = "off"; else delete root.dataset.tail;
    button.setAttribute("aria-pressed", String(!off));
    say(off ? "Cut-off text hidden" : "Cut-off text shown");
    if (isFile) return;
    const here = withTail(location.href, off);
    history.replaceState(null, "", here);
    button.href = withTail(location.href, !off);
    for (const link of all('#view a[href^="/?"], #view a[href="/"]')) if (link !== button) link.href = withTail(link.href, off);
    for (const field of all('.pick input[name="tail"]')) field.disabled = !off;
    for (const form of all(".jump")) {
      find('input[name="tail"]', form)?.remove();
      if (off) form.insertAdjacentHTML("afterbegin", '<input type="hidden" name="tail" value="off">');
    }
  };
  const withTail = (address, off) => {
    const url = new URL(address, location.href);
    if (off) url.searchParams.set("tail", "off"); else url.searchParams.delete("tail");
    return url.pathname + url.search;
  };

  // Rows by keys
  const rows = () => all(".row").filter((row) => row.checkVisibility());
  const step = (by) => {
    const list = rows();
    if (!list.length) return;
    const now = list.indexOf(document.activeElement?.closest?.(".row"));
    const next = now < 0 ? (by > 0 ? list.findIndex((row) => row.getBoundingClientRect().top >= 0) : 0) : now + by;
    const row = list[Math.max(0, Math.min(list.length - 1, next))];
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  };

  // On a narrow page the configs stand in one line that scrolls.
  const showCurrent = () => {
    for (const link of all(".configs a[aria-current]")) {
      const line = link.parentElement;
      line.scrollLeft = Math.max(0, link.offsetLeft - line.offsetLeft - (line.clientWidth - link.offsetWidth) / 2);
    }
  };

  // Pages without a whole new page: the server's HTML takes the place of what is there.
  let asked = 0;
  let asking = "";
  const go = async (address, { push = true, focus = "" } = {}) => {
    if (address === asking) return; // a key that is pressed twice
    asking = address;
    const mine = ++asked;
    find("#view").setAttribute("aria-busy", "true");
    let html;
    try {
      const answer = await fetch(address, { headers: { Accept: "text/html" } });
      html = await answer.text();
    } catch {
      location.href = address; // the browser says what is wrong
      return;
    }
    if (mine !== asked) return;
    asking = "";
    const page = new DOMParser().parseFromString(html, "text/html");
    const view = find("#view", page);
    if (!view) { location.href = address; return; }
    if (push) history.pushState(null, "", address);
    find("#view").replaceWith(document.adoptNode(view));
    find(".top .views").replaceWith(document.adoptNode(find(".top .views", page)));
    showCurrent();
    if (page.documentElement.dataset.tail) root.dataset.tail = "off"; else delete root.dataset.tail;
    document.title = page.title;
    const status = find(".status");
    if (status) say(status.textContent);
    if (focus) find(focus)?.focus({ preventScroll: true });
    else find("#view").focus({ preventScroll: true });
    if (push) window.scrollTo(0, 0);
  };
  const formAddress = (form) => {
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value !== "") fields.append(name, value);
    return `/?${fields}`;
  };
  const serve = () => {
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.("a");
      if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (link.id === "tail") { event.preventDefault(); toggleTail(); return; }
      const url = new URL(link.href, location.href);
      if (url.origin !== location.origin || !["/", "/card", "/plots"].includes(url.pathname) || url.hash) return;
      event.preventDefault();
      const config = link.closest(".configs") && link.dataset.config;
      go(url.pathname + url.search, { focus: config ? ".configs a[aria-current]" : "" });
    });
    document.addEventListener("submit", (event) => {
      if (event.target.method === "dialog") return;
      event.preventDefault();
      go(formAddress(event.target), { focus: event.target.matches(".pick") ? "#q" : "" });
    });
    document.addEventListener("change", (event) => {
      if (event.target.matches(".pick select")) go(formAddress(event.target.form), { focus: `#${event.target.id}` });
    });
    window.addEventListener("popstate", () => go(location.pathname + location.search, { push: false }));
  };

  // The exported file: all its rows are here, so they are picked here.
  const fileViews = () => {
    const views = all(".view");
    const configs = all(".config");
    const form = find(".pick");
    root.dataset.live = "";
    form.hidden = false;
    const show = (id) => {
      const config = configs.find((each) => each.id === id);
      const view = config ? "rows" : id;
      if (!views.some((each) => each.id === view)) return false;
      for (const each of views) each.hidden = each.id !== view;
      for (const link of all(".views a")) mark(link, link.dataset.view === view, "page");
      if (config || view === "rows") {
        const shown = config || configs.find((each) => !each.hidden) || configs[0];
        for (const each of configs) each.hidden = each !== shown;
        for (const link of all(".configs a")) mark(link, link.dataset.config === shown.id, "true");
      }
      return true;
    };
    const mark = (link, current, value) => {
      if (current) link.setAttribute("aria-current", value); else link.removeAttribute("aria-current");
    };
    const fold = (text) => text.toLowerCase();
    // A caption's own words, once each: what the page says of them ("more", "not shown") is none of them.
    const texts = new Map();
    const textOf = (caption) => {
      if (!texts.has(caption)) {
        const copy = find(".text", caption).cloneNode(true);
        for (const extra of all("summary, .left-out", copy)) extra.remove();
        texts.set(caption, fold(copy.textContent));
      }
      return texts.get(caption);
    };
    const pick = () => {
      const q = fold(form.q.value.trim()), within = form.in.value, failed = form.failed ? form.failed.value : "";
      const low = form.min.value === "" ? -Infinity : Number(form.min.value);
      const high = form.max.value === "" ? Infinity : Number(form.max.value);
      const asks = q || low > 0 || high < Infinity;
      for (const config of configs) {
        let hits = 0;
        for (const row of all(".row", config)) {
          const captions = all(".caption", row);
          const fits = !asks || captions.some((each) => each.dataset.words !== undefined
            && (!within || each.dataset.label === within)
            && Number(each.dataset.words) >= low && Number(each.dataset.words) <= high
            && textOf(each).includes(q));
          const lost = !failed || captions.some((each) => each.classList.contains("failed")
            && (failed === "any" || each.dataset.label === failed));
          row.hidden = !(fits && lost);
          hits += !row.hidden;
        }
        const status = find(".status", config);
        const total = all(".row", config).length;
        status.textContent = asks || failed ? `${hits} of ${total} rows here` : status.dataset.all;
      }
      say(find(".config:not([hidden]) .status").textContent);
    };
    form.addEventListener("input", pick);
    form.addEventListener("reset", () => setTimeout(pick));
    form.addEventListener("submit", (event) => { event.preventDefault(); pick(); });
    find("#tail")?.addEventListener("click", toggleTail);
    const follow = () => show(decodeURIComponent(location.hash.slice(1)));
    window.addEventListener("hashchange", () => { if (follow()) window.scrollTo(0, 0); });
    if (!follow()) show("rows");
  };

  const keys = (event) => {
    const typing = event.target.matches?.("input:not([type=hidden]), select, textarea");
    if (event.key === "Escape" && typing) {
      event.preventDefault(); // a field of searches would forget what was typed
      event.target.blur();
      return;
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || find("#keys").open) return;
    const chosen = document.activeElement?.matches?.(".row");
    const actions = {
      "/": () => find("#q")?.focus(),
      j: () => step(1),
      k: () => step(-1),
      n: () => find('.pager a[rel="next"]')?.click(),
      p: () => find('.pager a[rel="prev"]')?.click(),
      t: toggleTail,
      d: turnTheme,
      "?": () => find("#keys").showModal(),
    };
    if (chosen) Object.assign(actions, { ArrowDown: actions.j, ArrowUp: actions.k });
    const action = actions[event.key] || (/^[1-9]$/.test(event.key) && (() => all(".configs:not(.splits) a")[event.key - 1]?.click()));
    if (!action) return;
    event.preventDefault();
    action();
  };

  document.addEventListener("DOMContentLoaded", () => {
    setTheme(root.dataset.theme || "");
    const help = find("#help");
    help.hidden = false;
    help.addEventListener("click", () => find("#keys").showModal());
    find("#theme").addEventListener("click", turnTheme);
    document.addEventListener("keydown", keys);
    if (isFile) fileViews(); else serve();
    showCurrent();
  });
})();
