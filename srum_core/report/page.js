"use strict";
// All words that come from records are set as text, never as markup. Cards are made when their row comes into view.
const data = JSON.parse(document.getElementById("data").textContent);
const MINUS = "\u2212";
const BLUE = [26, 111, 212], ORANGE = [230, 97, 0];

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function drawn(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const signed = (value) => (value < 0 ? MINUS : "+") + Math.abs(value).toFixed(2);
const plain = (value) => (value === null || value === undefined ? "–" : value.toFixed(2).replace("-", MINUS));
const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

// ---- a grid of cards ------------------------------------------------------------------------------------------------

// Rows keep their height, so only those near the window need cards. A row that holds the focus keeps them.
function cards(host, cardWidth, textHeight, pictures, card) {
  let items = [], columns = 0, pending = 0;
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.firstChild) fill(target);
      else if (!isIntersecting && !target.contains(document.activeElement)) target.replaceChildren();
    }
  }, { rootMargin: "400px 0px" });

  function fill(row) {
    const first = Number(row.dataset.first);
    row.replaceChildren(...items.slice(first, first + columns).map((item, index) => card(item, first + index)));
  }

  function lay() {
    const gap = 19, width = host.clientWidth;
    columns = Math.max(1, Math.floor((width + gap) / (cardWidth + gap)));
    const side = ((width - gap * (columns - 1)) / columns - (pictures - 1) * 8) / pictures;
    watch.disconnect();
    const rows = [];
    for (let first = 0; first < items.length; first += columns) {
      const style = `grid-template-columns: repeat(${columns}, 1fr); height: ${Math.round(side + textHeight)}px`;
      rows.push(make("div", { class: "row", style, "data-first": first }));
    }
    // What is read stays where it is: the section that began last above the middle of the window.
    const read = [...document.querySelectorAll("section")].findLast((each) => each.getBoundingClientRect().top < innerHeight / 2);
    const top = read && read.getBoundingClientRect().top;
    host.replaceChildren(...rows);
    if (read) window.scrollBy(0, read.getBoundingClientRect().top - top);
    rows.forEach((row) => watch.observe(row));
  }

  new ResizeObserver(() => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(() => { if (host.clientWidth !== host.laid) { host.laid = host.clientWidth; lay(); } });
  }).observe(host);

  return {
    show(found) { items = found; host.laid = host.clientWidth; lay(); },
    refresh() { host.querySelectorAll(".row").forEach((row) => { if (row.firstChild) fill(row); }); },
  };
}

function tools(section, change) {
  const bar = section.querySelector(".tools"), controls = [...bar.querySelectorAll("[data-for]")];
  const read = () => Object.fromEntries(controls.map((each) => [each.dataset.for, each.type === "checkbox" ? each.checked : each.value]));
  bar.addEventListener("input", (event) => change(read(), event.target.dataset.for));
  return { read, say: (text) => { bar.querySelector("output").textContent = text; } };
}

// An image, or a pair, that can be enlarged, with its prompt and more below.
function entry(item, view, act, ...below) {
  const button = make("button", { class: "look", type: "button", "aria-label": `Look closer: ${item.prompt}` }, view);
  button.addEventListener("click", () => act(button));
  const prompt = make("p", { class: "prompt", title: item.prompt }, item.prompt);
  return make("article", { class: "card", "data-id": item.id }, button, prompt, ...below);
}

const sorted = (items, value) => !value ? items : items.map((item, index) => [value(item), index, item])
  .sort((one, other) => (one[0] ?? Infinity) - (other[0] ?? Infinity) || one[1] - other[1]).map((each) => each[2]);

// ---- images ---------------------------------------------------------------------------------------------------------

const picture = (source, small, alt) => make("img", { src: source, alt, class: small ? "small" : null, decoding: "async" });

function cells(weights) {
  const bytes = Uint8Array.from(atob(weights.cells), (letter) => letter.charCodeAt(0));
  return Array.from(bytes, (byte) => ((byte - 100) / 100) * weights.scale);
}

// Diverging colours; negative cells are also hatched, and values are printed where cells have room for them.
function heat(weights, side, printed) {
  const values = cells(weights), ratio = window.devicePixelRatio || 1;
  const tall = weights.aspect > 1 ? side : side * weights.aspect, across = weights.aspect > 1 ? side / weights.aspect : side;
  const canvas = make("canvas", { width: Math.round(across * ratio), height: Math.round(tall * ratio), role: "img",
    style: "object-fit: contain", "aria-label": told(weights, values) });
  const pen = canvas.getContext("2d"), w = canvas.width / weights.columns, h = canvas.height / weights.rows;
  const each = (paint) => values.forEach((value, index) => {
    const x = Math.round((index % weights.columns) * w), y = Math.round(Math.floor(index / weights.columns) * h);
    paint(value, x, y, Math.round(((index % weights.columns) + 1) * w) - x, Math.round((Math.floor(index / weights.columns) + 1) * h) - y);
  });
  const hatch = hatching(ratio);
  each((value, x, y, width, height) => {
    const [red, green, blue] = value < 0 ? ORANGE : BLUE;
    pen.fillStyle = `rgba(${red}, ${green}, ${blue}, ${0.8 * Math.min(1, Math.abs(value) / weights.scale)})`;
    pen.fillRect(x, y, width, height);
    if (value < -0.005) { pen.fillStyle = hatch; pen.fillRect(x, y, width, height); }
  });
  if (printed && w / ratio >= 30 && h / ratio >= 16) {
    Object.assign(pen, { font: `600 ${11 * ratio}px system-ui, sans-serif`, textAlign: "center", textBaseline: "middle",
      lineWidth: 3 * ratio, lineJoin: "round" });
    each((value, x, y, width, height) => {
      if (Math.abs(value) < 0.005) return;
      pen.strokeStyle = "#fff";
      pen.strokeText(signed(value), x + width / 2, y + height / 2);
      pen.fillStyle = "#111";
      pen.fillText(signed(value), x + width / 2, y + height / 2);
    });
  }
  return canvas;
}

function hatching(ratio) {
  const size = Math.round(6 * ratio), tile = make("canvas", { width: size, height: size }), pen = tile.getContext("2d");
  Object.assign(pen, { strokeStyle: "rgba(0, 0, 0, .6)", lineWidth: ratio });
  pen.beginPath();
  for (const shift of [-size, 0, size]) { pen.moveTo(shift, size); pen.lineTo(shift + size, 0); }
  pen.stroke();
  return pen.createPattern(tile, "repeat");
}

function told(weights, values) {
  const negative = values.filter((value) => value < -0.005).length;
  return `Reward map, ${weights.rows} by ${weights.columns} cells: mean ${plain(weights.mean)}, ` +
    `from ${plain(Math.min(...values))} to ${plain(Math.max(...values))}, ${negative} negative`;
}

const score = (region) => mean(region.scores.map((each) => each.value));

// An image is shown whole in a square; boxes follow it there.
function boxes(item, view) {
  const [width, height] = item.size, longest = Math.max(width, height);
  const svg = drawn("svg", { viewBox: `0 0 ${longest} ${longest}`, "aria-hidden": "true" }), tags = [];
  const left = (longest - width) / 2, top = (longest - height) / 2;
  for (const region of item.regions) {
    const value = score(region), low = value !== null && value < 0, [x0, y0, x1, y1] = region.box;
    const place = { x: left + x0 * width, y: top + y0 * height, width: (x1 - x0) * width, height: (y1 - y0) * height };
    svg.append(drawn("rect", { ...place, class: "under" }), drawn("rect", { ...place, class: low ? "over-line negative" : "over-line" }));
    const at = `left: ${Math.min(84, Math.max(0, (100 * place.x) / longest))}%; top: ${Math.min(93, Math.max(0, (100 * place.y) / longest))}%`;
    tags.push(make("span", { class: low ? "tag low" : "tag", style: at }, `${region.id} ${value === null ? "?" : signed(value)}`));
  }
  view.append(svg, ...tags);
}

function look(item, options, side) {
  const heated = options.map && item.weights && item.weights.cells;
  const view = make("span", { class: heated ? "view heated" : "view" }, picture(item.src, item.small, item.prompt));
  if (heated) view.append(heat({ ...item.weights, aspect: item.size[1] / item.size[0] }, side, side > 300 || !options.boxes));
  if (options.boxes && item.regions) boxes(item, view);
  return view;
}

// ---- candidates -----------------------------------------------------------------------------------------------------

const regional = (item) => (item.judged ? item.regions.map(score).filter((each) => each !== null) : []);
const values = (item) => (item.judged ? [...item.whole.map((each) => each.value), ...regional(item)] : []);
const whole = (item) => (item.judged ? mean(item.whole.map((each) => each.value)) : null);
const lowest = (item) => { const all = regional(item); return all.length ? Math.min(...all) : null; };
const worth = (item) => (item.weights && item.weights.mean !== undefined ? item.weights.mean : mean(values(item)));
const spread = (item) => { const all = values(item); return all.length ? Math.max(...all) - Math.min(...all) : null; };
const minus = (value) => (value === null ? null : -value);
const ORDERS = { worst: worth, best: (item) => minus(worth(item)), global: whole, region: lowest, spread: (item) => minus(spread(item)) };
const SHOWN = {
  all: () => true,
  negative: (item) => Boolean(item.weights && item.weights.cells) && cells(item.weights).some((value) => value < -0.005),
  trained: (item) => item.judged && !item.failures.length,
  failed: (item) => item.judged && item.failures.length > 0,
};

for (const item of data.candidates || []) {
  if (!item.judged) continue;
  item.whole = item.scores.filter((each) => each.region === null);
  for (const region of item.regions) region.scores = item.scores.filter((each) => each.region === region.id);
}

function words(item) {
  const scores = item.judged ? item.scores : [];
  return [item.prompt, ...scores.flatMap((each) => [each.label, each.reason])].join("\n").toLowerCase();
}

function gallery(section) {
  const host = section.querySelector(".grid"), legend = document.getElementById("legend");
  const grid = cards(host, 208, 92, 1, (item) =>
    entry(item, look(item, bar.read(), 208), (button) => closer(item, button), ...summary(item)));
  const bar = tools(section, (chosen, which) => {
    legend.hidden = !chosen.map;
    if (which === "map" || which === "boxes") grid.refresh(); else show(chosen);
  });
  function show(chosen) {
    const text = chosen.text.toLowerCase().trim();
    const found = sorted(data.candidates.filter((item) => SHOWN[chosen.show](item) && (!text || words(item).includes(text))
      && (!chosen.round || chosen.round === "all" || item.round === Number(chosen.round))), ORDERS[chosen.sort]);
    bar.say(`${found.length} of ${data.candidates.length}`);
    grid.show(found);
  }
  legend.hidden = !bar.read().map;
  show(bar.read());

  function closer(item, button) {
    const large = make("div", {}), options = make("p", { class: "tools" });
    const draw = () => large.replaceChildren(look(item, bar.read(), 430));
    for (const name of ["boxes", "map"]) {
      const control = section.querySelector(`[data-for=${name}]`), own = make("input", { type: "checkbox", checked: control.checked });
      own.addEventListener("input", () => { control.click(); draw(); });
      options.append(make("label", { class: "switch" }, own, make("span", {}, name === "map" ? "Reward map" : "Boxes")));
    }
    draw();
    const weights = item.weights, facts = `round ${item.round} · seed ${item.seed} · ${item.size.join(" × ")} pixels`;
    const under = weights && weights.cells ? told(weights, cells(weights)) + "." : (weights ? weights.why : "It is not judged yet.");
    open(item.prompt, button, "body", make("div", {}, large, options, make("p", { class: "sub" }, under), make("p", { class: "sub" }, facts)), details(item));
  }
}

function summary(item) {
  if (!item.judged) return [make("p", { class: "line" }, "not judged")];
  if (item.failures.length) return [make("p", { class: "line failure" }, make("b", {}, "left out "), item.failures[0].why)];
  const bad = sorted(item.regions, score)[0], told = bad && bad.scores[0];
  return [
    make("p", { class: "line" }, "global ", make("b", {}, item.whole.length ? signed(whole(item)) : "–"), " · weight ", make("b", {}, plain(item.weights.mean))),
    told ? make("p", { class: "line", title: told.reason }, `region ${bad.id} `, make("b", {}, signed(score(bad))), ` ${told.label || bad.label} ${told.reason && "– " + told.reason}`) : null,
  ].filter((each) => each !== null);
}

function details(item) {
  const side = make("div", {});
  if (item.thought) side.append(make("h4", {}, "Thought"), make("p", {}, item.thought));
  if (!item.judged) return side;
  const line = (name, each) => make("li", {}, make("b", {}, `${name} ${signed(each.value)}`), each.label ? ` ${each.label}` : "",
    each.reason ? `: ${each.reason}` : "", make("br"), make("span", { class: "sub" }, each.judge,
      ...each.rules.map((rule) => ` · ${rule}`), each.stated === null ? "" : ` · stated ${signed(each.stated)}`));
  const list = (title, lines) => { if (lines.length) side.append(make("h4", {}, title), make("ul", {}, ...lines)); };
  list("The whole image", item.whole.map((each) => line("global", each)));
  list("Regions", item.regions.flatMap((region) =>
    region.scores.length ? region.scores.map((each) => line(region.id, each)) : [make("li", {}, `${region.id} ${region.label} has no score`)]));
  list("Could not be read", item.failures.map((each) => make("li", { class: "failure" }, `${each.judge}: ${each.why}`)));
  side.append(answers(item.answers));
  return side;
}

function answers(found) {
  if (!found.length) return "";
  const parts = found.flatMap((each) => [make("p", { class: "sub" }, each.by), make("pre", {}, each.text)]);
  return make("details", {}, make("summary", {}, `Answers, word for word (${found.length})`), ...parts);
}

function open(title, button, layout, ...content) {
  const dialog = document.getElementById("closer"), close = make("button", { class: "close", type: "button" }, "Close");
  close.addEventListener("click", () => dialog.close());
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  dialog.onclose = () => { dialog.replaceChildren(); if (button.isConnected) button.focus(); };
  dialog.replaceChildren(make("h3", { id: "closer-title" }, title), close, make("div", { class: layout }, ...content));
  dialog.showModal();
}

// ---- the same prompts by several models ------------------------------------------------------------------------------

function verdict(name, found, measures, measure) {
  const value = found.values[measure], binary = measures.find((each) => each.name === measure)?.binary;
  if (!binary || value === undefined) return make("span", { class: "verdict" }, `${name} `, make("b", {}, plain(value)));
  return make("span", { class: value ? "verdict right" : "verdict wrong" }, `${name} `, make("b", {}, value ? "✓ right" : "✗ wrong"));
}

function compare(section) {
  const { pairs, measures, names } = data.pairs, host = section.querySelector(".grid");
  const all = (pair, measure, alone) => pair.images.map((found, index) => {
    const name = names[index], view = make("span", { class: "view" }, picture(found.src, found.small, `${pair.prompt}, ${name}`));
    const why = found.why ? make("span", { class: "line why", title: found.why }, found.why) : null;
    return make("span", {}, view, ...(alone ? measures.map((each) => verdict(`${name}, ${each.name}`, found, measures, each.name)) : [verdict(name, found, measures, measure)]), why);
  });
  const change = (pair, model, measure) => (pair.images[model].values[measure] ?? 0) - (pair.images[0].values[measure] ?? 0);
  const total = (pair, model) => mean(measures.map((each) => Math.abs(change(pair, model, each.name))));
  const closer = (pair, button) => open(pair.prompt, button, "body pair", ...all(pair, null, true),
    make("p", { class: "sub" }, `seed ${pair.seeds.join(", ")}`), answers(pair.answers));
  const explained = pairs.some((pair) => pair.images.some((each) => each.why));
  const grid = cards(host, 145 * names.length, explained ? 136 : 98, names.length, (pair) =>
    entry(pair, make("span", { class: "two" }, ...all(pair, bar.read().measure, false)), (button) => closer(pair, button)));
  const bar = tools(section, show);
  function show(chosen) {
    const model = Number(chosen.model ?? 1), by = (pair) => change(pair, model, chosen.measure), text = chosen.text.toLowerCase().trim();
    const kept = { all: () => true, up: (pair) => by(pair) > 0, down: (pair) => by(pair) < 0, same: (pair) => by(pair) === 0 }[chosen.show];
    const order = { changed: (pair) => -total(pair, model), better: (pair) => -by(pair), worse: by }[chosen.sort];
    const found = sorted(pairs.filter((pair) => kept(pair) && pair.prompt.toLowerCase().includes(text)), order);
    bar.say(`${found.length} of ${pairs.length}`);
    grid.show(found);
  }
  show(bar.read());
}

// ---- the page -------------------------------------------------------------------------------------------------------

const bar = document.querySelector("nav");
new ResizeObserver(() => { document.documentElement.style.scrollPaddingTop = `${bar.offsetHeight}px`; }).observe(bar);
document.getElementById("theme").addEventListener("input", (event) => { document.documentElement.style.colorScheme = event.target.value; });
if (document.getElementById("pairs")) compare(document.getElementById("pairs"));
if (document.getElementById("candidates")) gallery(document.getElementById("candidates"));
