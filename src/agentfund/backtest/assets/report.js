"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);

  // Every text goes into the page through here, as text.
  function el(tag, name = "", ...children) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    for (const child of children) {
      if (child !== null && child !== undefined) node.append(child instanceof Node ? child : String(child));
    }
    return node;
  }

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  if (typeof DecompressionStream === "undefined") {
    $("title").textContent = "This browser is too old to unpack the report; report.txt beside it has the figures.";
    return;
  }
  const data = await unpack($("data").textContent);
  const { decided, filled, trips, metrics, benchmark } = data;

  // ---- numbers ------------------------------------------------------------------------------------------------------
  const fixed = (digits) => new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const two = fixed(2), none = fixed(0), four = fixed(4);
  const known = (value) => value !== null && value !== undefined;
  const money = (value) => (known(value) ? two.format(value) : "n/a");
  const signed = (value, text) => (value > 0 ? "+" : "") + text;
  const percent = (value) => (known(value) ? signed(value, two.format(100 * value)) + " %" : "n/a");
  const ratio = (value) => (known(value) ? two.format(value) : "n/a");
  const count = (number, noun) => none.format(number) + " " + noun + (number === 1 ? "" : "s");
  const iso = (seconds) => new Date(seconds * 1000).toISOString().replace("T", " ");
  const when = (seconds) => iso(seconds).slice(0, data.daily ? 10 : 16);
  const tone = (value) => (value > 0 ? "good" : value < 0 ? "bad" : "");
  const digitsOf = (symbol) => fixed((data.candles[symbol] || { digits: 2 }).digits);

  // ---- what belongs to a decision -----------------------------------------------------------------------------------
  decided.forEach((decision, index) => Object.assign(decision, { index, fills: [], opened: [], ended: [] }));
  for (const fill of filled) if (known(fill.decision)) decided[fill.decision].fills.push(fill);
  for (const trip of trips) {
    if (known(trip.decision)) decided[trip.decision].opened.push(trip);
    if (known(trip.closed_by) && trip.closed_by !== trip.decision) decided[trip.closed_by].ended.push(trip);
  }
  const sum = (items, value) => items.reduce((total, item) => total + value(item), 0);
  const wanted = (decision) => decision.direction || "?";
  const llmCost = (decision) => sum(decision.calls, (call) => call[4]);
  const result = (decision) => (decision.opened.length ? sum(decision.opened, (trip) => trip.profit) : null);

  // ---- headline -----------------------------------------------------------------------------------------------------
  $("title").textContent = data.symbol;
  $("subtitle").textContent =
    `${when(Date.parse(data.start) / 1000)} to ${when(Date.parse(data.end) / 1000)} UTC · ${count(data.bars, "bar")} · ${data.source}`;
  $("badges").append(el("span", "tag muted", "backtest of " + data.run.fund));
  const ended = trips.filter((trip) => trip.exit !== "open");
  const cards = [
    ["Final equity", money(data.final_equity), `${data.currency}, from ${money(data.cash)}`, ""],
    ["Total return", percent(metrics.total_return), "held: " + percent(metrics.buy_and_hold), tone(metrics.total_return)],
    ["Sharpe ratio", ratio(metrics.sharpe), "held: " + ratio(benchmark.sharpe), ""],
    ["Deepest drawdown", percent(-metrics.max_drawdown || 0), "over " + count(metrics.max_drawdown_bars, "bar"), ""],
    ["Round trips", none.format(ended.length),
      known(metrics.hit_rate) ? Math.round(100 * metrics.hit_rate) + " % made money" : "none has ended", ""],
    ["Trading costs", money(data.costs), known(metrics.cost_drag) ? two.format(100 * metrics.cost_drag) + " % of capital" : "", ""],
    ["LLM cost", four.format(data.llm_cost_usd), "USD, " + count(data.llm_calls, "call"), ""],
    ["Decisions", none.format(data.decisions),
      `${none.format(data.orders)} ordered, ${none.format(data.vetoes + data.denials)} stopped`, ""],
  ];
  for (const [label, value, note, name] of cards) {
    const card = el("div", "card", el("div", "muted small", label), el("div", "value " + name, value), el("div", "note muted small", note));
    card.title = note;
    $("headline").append(card);
  }

  // ---- what it is worth ---------------------------------------------------------------------------------------------
  const { luck, nulls, gates, stamp } = data;
  function draw(name, shapes) {
    const make = (tag, values, words) => {
      const node = document.createElementNS($("pen").namespaceURI, tag);
      for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
      if (words) node.textContent = words;
      return node;
    };
    const picture = make("svg", { class: name, viewBox: "0 0 300 62", preserveAspectRatio: "none", role: "img" });
    picture.append(...shapes.map((shape) => make(...shape)));
    return picture;
  }

  if (stamp) {
    $("stamp").hidden = false;
    $("stamp").append(el("b", "", stamp.verdict), stamp.reason);
    $("stamp").classList.toggle("clean", stamp.verdict === "CLEAN");
    document.body.classList.toggle("contaminated", stamp.verdict === "CONTAMINATED");
    $("badges").append(el("span", "tag " + (stamp.verdict === "CLEAN" ? "ordered" : "vetoed"), stamp.verdict));
  }

  function lucky() {
    const value = luck.deflated_sharpe, card = el("div", "card", el("h2", "", "Luck: deflated Sharpe ratio"));
    card.append(el("div", "value " + (luck.stands ? "good" : ""), known(value) ? two.format(value) : "n/a"));
    if (known(value)) {
      const scale = draw("scale", [["rect", { class: "rail", x: 0, y: 6, width: 300, height: 8, rx: 3 }],
        ["rect", { class: "got", x: 0, y: 6, width: Math.max(1, 300 * value), height: 8, rx: 3 }],
        ["line", { class: "need", x1: 285, x2: 285, y1: 1, y2: 19 }]]);
      scale.setAttribute("viewBox", "0 0 300 24");
      card.append(scale);
    }
    card.append(el("p", "small", luck.sentence));
    if (data.overfitting) card.append(el("p", "small", data.overfitting.sentence));
    if (data.masked) card.append(el("p", "small", data.masked));
    return card;
  }

  function chance() {
    const own = nulls.random_entry, card = el("div", "card", el("h2", "", "Chance: the same trades at random times"));
    if (!own) return el("div", "card", el("h2", "", "Chance"), el("p", "small muted", "Nothing was traded, so chance has nothing to move."));
    const draws = data.draws, low = Math.min(draws[0], own.result), high = Math.max(draws[draws.length - 1], own.result);
    const wide = high - low || 1, bins = Array(30).fill(0), x = (value) => 6 + (288 * (value - low)) / wide;
    for (const one of draws) bins[Math.min(29, Math.floor((30 * (one - low)) / wide))] += 1;
    const top = Math.max(...bins);
    const bars = bins.map((number, i) => ["rect", { class: "draws", x: 6 + 9.6 * i, width: 8.6, y: 60 - (54 * number) / top, height: (54 * number) / top }]);
    card.append(el("div", "value " + (own.p_best < 0.05 ? "good" : ""), none.format(own.percentile) + " %", el("span", "muted small", " of draws are worse")),
      draw("draws", [...bars, ["line", { class: "own", x1: x(own.result), x2: x(own.result), y1: 0, y2: 61 }]]));
    for (const one of [own, nulls.shuffled]) if (one) card.append(el("p", "small", one.sentence));
    return card;
  }

  function gated() {
    const card = el("div", "card", el("h2", "", "Gates: what was stopped would have made"));
    const rows = Object.entries(gates.gates);
    if (rows.length) {
      const list = el("table"), bold = (value) => el("span", tone(value), signed(value, two.format(value)));
      fill(list, Object.assign(["Gate", "Stopped", "Saved", "Cost", "Net"], { numbers: 5 }),
        rows.map(([name, one]) => [name, none.format(one.stopped), money(one.saved), money(one.cost), bold(one.net)]));
      card.append(el("div", "wide", list));
    }
    card.append(el("p", "small" + (rows.length ? "" : " muted"), gates.sentence));
    return card;
  }

  function months() {
    const years = new Map();
    for (const one of data.monthly) {
      const [year, month] = one.month.split("-");
      if (!years.has(year)) years.set(year, Array(12).fill(null));
      years.get(year)[month - 1] = one.return;
    }
    if (data.monthly.length < 2) return;
    $("monthly").hidden = false;
    const most = Math.max(1e-9, ...data.monthly.map((one) => Math.abs(one.return || 0)));
    const names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Year"];
    const row = ([year, values]) => {
      const whole = values.reduce((total, value) => total * (1 + (value || 0)), 1) - 1;
      return el("tr", "", el("td", "", year), ...[...values, whole].map((value, i) => {
        const cell = el("td", "", known(value) ? two.format(100 * value) : "");
        if (known(value) && i < 12) cell.style.background = `color-mix(in srgb, var(--${value < 0 ? "down" : "up"}) ${Math.round((45 * Math.abs(value)) / most)}%, transparent)`;
        return cell;
      }));
    };
    $("months").append(el("thead", "", el("tr", "", el("th", "", "%"), ...names.map((name) => el("th", "", name)))),
      el("tbody", "", ...[...years].map(row)));
  }
  $("worth").append(lucky(), chance(), gated());
  months();

  // ---- chart --------------------------------------------------------------------------------------------------------
  const L = LightweightCharts;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const chart = L.createChart($("chart"), {
    autoSize: true,
    timeScale: { timeVisible: !data.daily, secondsVisible: false, minBarSpacing: 0.05, rightOffset: 2 },
    rightPriceScale: { minimumWidth: 76 },
    crosshair: { mode: L.CrosshairMode.Normal },
    localization: { locale: "en-US", timeFormatter: (time) => when(time) + " UTC" },
  });
  const amounts = { type: "custom", minMove: 0.01, formatter: (value) => none.format(value) };
  const equity = chart.addSeries(L.AreaSeries, { lineWidth: 2, priceFormat: amounts, priceLineVisible: false }, 0);
  const hold = chart.addSeries(L.LineSeries, { lineWidth: 1, priceFormat: amounts, priceLineVisible: false }, 0);
  const falls = chart.addSeries(L.AreaSeries,
    { lineWidth: 1, invertFilledArea: true, priceLineVisible: false,
      priceFormat: { type: "custom", minMove: 0.01, formatter: (value) => two.format(value) + " %" } }, 1);
  const price = chart.addSeries(L.CandlestickSeries, { borderVisible: false, priceLineVisible: false }, 2);
  const marks = L.createSeriesMarkers(price, [], { autoScale: false });
  for (const series of [equity, price]) series.priceScale().applyOptions({ scaleMargins: { top: 0.14, bottom: 0.08 } });
  falls.priceScale().applyOptions({ scaleMargins: { top: 0.2, bottom: 0.06 } });
  [5, 3, 9].forEach((factor, index) => chart.panes()[index].setStretchFactor(factor));
  const captions = chart.panes().map((pane) => L.createTextWatermark(pane, { horzAlign: "left", vertAlign: "top", lines: [] }));
  const line = (values) => data.times.map((time, i) => (known(values[i]) ? { time, value: values[i] } : { time }));
  equity.setData(line(data.equity));
  hold.setData(line(data.hold));
  falls.setData(line(data.falls));

  const drawn = data.step > 1
    ? `Drawn: ${none.format(data.times.length)} candles of ${data.step} bars each (first open, highest, lowest and last close;`
      + ` deepest drawdown). All figures are of all ${none.format(data.bars)} bars. `
    : "";
  let symbol = Object.keys(data.candles)[0], filter = "all", chosen = null;
  function showSymbol(name) {
    symbol = name;
    const c = data.candles[name];
    price.applyOptions({ priceFormat: { type: "price", precision: c.digits, minMove: 10 ** -c.digits } });
    price.setData(data.times.map((time, i) =>
      known(c.close[i]) ? { time, open: c.open[i], high: c.high[i], low: c.low[i], close: c.close[i] } : { time }));
    caption();
    mark();
  }

  function caption() {
    const texts = ["Equity, and buy and hold", "Drawdown", symbol];
    captions.forEach((watermark, i) => watermark.applyOptions({ lines: [{ text: texts[i], color: color("muted"), fontSize: 11 }] }));
  }

  function theme() {
    const [equityColor, fall] = [color("equity"), color("fall")];
    chart.applyOptions({
      layout: { background: { type: "solid", color: color("card") }, textColor: color("muted"), fontSize: 11,
        panes: { separatorColor: color("line"), separatorHoverColor: color("hover") } },
      grid: { vertLines: { color: color("line") }, horzLines: { color: color("line") } },
      rightPriceScale: { borderColor: color("line") },
      timeScale: { borderColor: color("line") },
    });
    equity.applyOptions({ lineColor: equityColor, topColor: equityColor + "33", bottomColor: equityColor + "05" });
    hold.applyOptions({ color: color("hold") });
    falls.applyOptions({ lineColor: fall, topColor: fall + "11", bottomColor: fall + "44" });
    price.applyOptions({ upColor: color("up"), downColor: color("down"), wickUpColor: color("up"), wickDownColor: color("down") });
    caption();
    mark();
  }

  const passes = (decision) => filter === "all" || decision.outcome === filter;
  const visible = () => decided.filter(passes);
  const here = (item) => !item.symbol || item.symbol === symbol;

  // Ordered: arrows; vetoed: crosses; denied: circles; anything else: squares; fills: dots at their price.
  function shape(decision) {
    const up = decision.direction === "long";
    if (decision.outcome === "ordered" || decision.outcome === "advised") {
      if (decision.direction === "flat") return { shape: "square", position: "aboveBar", size: 0.8 };
      return { shape: up ? "arrowUp" : "arrowDown", position: up ? "belowBar" : "aboveBar", size: 1.2 };
    }
    if (decision.outcome === "vetoed" || decision.outcome === "declined") {
      return { shape: "circle", position: up ? "belowBar" : "aboveBar", size: 0, text: "✕" };
    }
    return { shape: decision.outcome === "denied" ? "circle" : "square", position: up ? "belowBar" : "aboveBar", size: 0.8 };
  }
  const shade = { ordered: "ordered", advised: "ordered", vetoed: "vetoed", declined: "vetoed", denied: "denied" };

  // Where marks would lie on each other, one of them stands for the rest until the reader zooms in.
  const ROOM = 14;
  function mark() {
    const found = [], taken = new Set(), range = chart.timeScale().getVisibleLogicalRange();
    const bars = range ? Math.max(1, ((range.to - range.from) * ROOM) / Math.max($("chart").clientWidth, 1)) : 1;
    const seen = (item) => !range || (item.at >= range.from - 1 && item.at <= range.to + 1);
    let hidden = 0;
    const place = (item, look, always) => {
      const slot = look.position + Math.floor(item.at / bars);
      if (!always && bars > 1 && taken.has(slot)) {
        hidden += 1;
        return;
      }
      taken.add(slot);
      found.push({ time: data.times[item.at], ...look });
    };
    for (const decision of visible()) {
      if (!here(decision) || (decision !== chosen && !seen(decision))) continue;
      const look = { id: "d" + decision.index, color: color(shade[decision.outcome] || "other"), ...shape(decision) };
      if (decision === chosen) Object.assign(look, look.text ? { text: "✕ chosen" } : { size: 2.4 });
      place(decision, look, decision === chosen);
    }
    for (const fill of filled) {
      if (!here(fill) || !seen(fill) || (known(fill.decision) && !passes(decided[fill.decision]))) continue;
      place(fill, { id: "d" + fill.decision, position: "atPriceMiddle", price: fill.price, shape: "circle", size: 0.3,
        color: color(fill.leg === "stop" ? "fall" : fill.leg === "target" ? "up" : "fill") }, false);
    }
    found.sort((a, b) => a.time - b.time);
    marks.setMarkers(found);
    $("drawn").textContent = drawn + (hidden ? `${none.format(hidden)} more mark${hidden === 1 ? "" : "s"} where there is no room: zoom in with the wheel.` : "");
  }

  const ohlc = ["open", "high", "low", "close"];
  function legend(at) {
    const c = data.candles[symbol], digits = digitsOf(symbol), parts = [];
    const add = (name, value) => parts.push(name + " ", el("b", "", value), "   ");
    add("", when(data.times[at]));
    if (known(c.close[at])) for (const name of ohlc) add(name[0].toUpperCase(), digits.format(c[name][at]));
    if (known(data.equity[at])) add("equity", money(data.equity[at]));
    if (known(data.hold[at])) add("hold", money(data.hold[at]));
    if (known(data.falls[at])) add("drawdown", two.format(data.falls[at]) + " %");
    $("legend").replaceChildren(...parts);
  }
  let waiting = 0;
  chart.timeScale().subscribeVisibleLogicalRangeChange(() => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(mark);
  });
  const end = data.times.length - 1;
  chart.subscribeCrosshairMove((event) => legend(known(event.logical) ? Math.min(Math.max(event.logical, 0), end) : end));

  chart.subscribeClick((event) => {
    const id = event.hoveredInfo && event.hoveredInfo.objectId;
    const named = typeof id === "string" ? decided[Number(id.slice(1))] : undefined;
    if (named) return choose(named);
    if (!known(event.logical) || !event.point) return;
    // A near miss counts: the closest decision within eight pixels.
    const scale = chart.timeScale();
    let best = null, distance = 8;
    for (const decision of visible().filter(here)) {
      const gap = Math.abs(scale.logicalToCoordinate(decision.at) - event.point.x);
      if (gap <= distance) [best, distance] = [decision, gap];
    }
    if (best) choose(best);
  });

  function reveal(decision) {
    const scale = chart.timeScale(), range = scale.getVisibleLogicalRange();
    if (range && (decision.at < range.from || decision.at > range.to)) {
      const wide = range.to - range.from;
      const from = Math.max(-1, Math.min(decision.at - wide / 2, end + 2 - wide));
      scale.setVisibleLogicalRange({ from, to: from + wide });
    }
    // The chart takes its new range with the next frame.
    requestAnimationFrame(() => {
      if (decision === chosen && here(decision)) {
        chart.setCrosshairPosition(data.candles[symbol].close[decision.at], data.times[decision.at], price);
      }
    });
    legend(decision.at);
  }

  // ---- table: only the rows in sight are in the page ------------------------------------------------------------------
  const HIGH = 30, box = $("scroll");
  const many = Object.keys(data.candles).length > 1;
  const columns = [["#", decided.length > 999 ? 58 : 44], ["Time (UTC)", data.daily ? 96 : 130], ...(many ? [["Symbol", 84]] : []), ["Wants", 58],
    ["Outcome", 92], ["Decided by", 104], ["Reason", 0], ["Price", 80], ["Result", 90]];
  for (const [name, width] of columns) {
    const cell = el("th", name === "Price" || name === "Result" ? "number" : "", name);
    if (width) cell.style.width = width + "px";
    $("columns").append(cell);
  }

  function row(decision) {
    const profit = result(decision);
    const cells = [none.format(decision.index + 1), when(decision.time), ...(many ? [decision.symbol] : []), wanted(decision),
      el("span", "tag " + decision.outcome, decision.outcome), decision.decided_by, decision.reason,
      known(decision.price) ? digitsOf(decision.symbol || symbol).format(decision.price) : "",
      known(profit) ? el("span", tone(profit), signed(profit, two.format(profit))) : ""];
    const line = el("tr", "row", ...cells.map((cell, i) => el("td", i >= cells.length - 2 ? "number" : "", cell)));
    line.setAttribute("aria-selected", decision === chosen);
    line.addEventListener("click", () => choose(decision));
    return line;
  }

  function space(height) {
    const cell = el("td", "space");
    cell.colSpan = columns.length;
    cell.style.height = height + "px";
    return el("tr", "gap", cell);
  }

  function table(all = false) {
    const list = visible();
    if (!list.length) {
      const cell = el("td", "muted", decided.length ? "No decision of this kind." : "Nothing was proposed, so nothing was decided.");
      cell.colSpan = columns.length;
      return $("rows").replaceChildren(el("tr", "", cell));
    }
    const from = all ? 0 : Math.max(0, Math.floor(box.scrollTop / HIGH) - 6);
    const to = all ? Math.min(list.length, 500) : Math.min(list.length, from + Math.ceil(372 / HIGH) + 12);
    $("rows").replaceChildren(space(from * HIGH), ...list.slice(from, to).map(row), space(all ? 0 : (list.length - to) * HIGH));
  }
  box.addEventListener("scroll", () => table());

  const names = { all: "All", ordered: "Ordered", vetoed: "Vetoed", denied: "Denied" };
  const buttons = Object.keys(names).map((name) => {
    const number = name === "all" ? decided.length : data.outcomes[name] || 0;
    const button = el("button", "", `${names[name]} ${none.format(number)}`);
    button.type = "button";
    button.addEventListener("click", () => {
      filter = name;
      buttons.forEach((other) => other.setAttribute("aria-pressed", other === button));
      box.scrollTop = 0;
      table();
      mark();
    });
    button.setAttribute("aria-pressed", name === "all");
    return button;
  });
  $("filters").append(...buttons);

  // ---- panel --------------------------------------------------------------------------------------------------------
  const text = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));
  function fields(pairs) {
    const list = el("dl", "fields");
    for (const [name, value] of pairs) if (known(value) && value !== "") list.append(el("div", "", el("dt", "", name), el("dd", "", value)));
    return list;
  }

  function opinion(one, decision) {
    const veto = decision.vetoes.some(([agent]) => agent === one.agent);
    const by = one.answered_by === "rules" ? "rule twin" : one.answered_by;
    const box = el("div", "opinion " + one.stance + (veto ? " veto" : ""),
      el("div", "who", el("b", "", one.agent), el("span", "muted small", one.stance === "value" ? one.output : one.stance)));
    if (one.value !== null && typeof one.value === "object") {
      const given = Object.entries(one.value).filter(([name, value]) => value !== null && !(name === "thesis" && value === decision.thesis));
      box.append(fields(given.map(([name, value]) => [name, text(value)])));
    } else if (one.value !== null) {
      box.append(el("div", "", text(one.value)));
    }
    if (one.reason) box.append(el("div", "", one.reason));
    for (const clamp of one.clamps) {
      box.append(el("div", "small vetoed", `${clamp.field}: gave ${clamp.given}, kept within bounds at ${clamp.kept}`));
    }
    if (one.stance !== "unavailable") {
      box.append(el("div", "muted small", "answered by " + by + (one.degraded ? ", because no language model could" : "")));
    }
    return box;
  }

  function trip(one) {
    const digits = digitsOf(one.symbol);
    const value = signed(one.profit, two.format(one.profit)) + ` ${data.currency} (${signed(one.pct, two.format(one.pct))} %)`;
    const how = one.exit === "open" ? "still open, marked at the last close" : "ended by " + (one.exit === "order" ? "an order" : "its " + one.exit);
    return el("div", "", el("b", tone(one.profit), value), el("div", "small muted",
      `${one.direction} from ${digits.format(one.entry)} to ${digits.format(one.left)}, ${count(one.bars, "bar")}, ${how}; costs ${money(one.cost)}`));
  }

  function section(title, ...children) {
    return children.length ? [el("h3", "", title), ...children] : [];
  }

  function overview() {
    const key = (sign, name, words) => el("div", "key", el("span", name, sign), el("span", "", words));
    const parts = [el("h2", "", "Read this first")];
    if (data.warnings.length) {
      parts.push(el("div", "warnings", el("ul", "", ...data.warnings.map((sentence) => el("li", "", sentence)))));
    } else {
      parts.push(el("p", "muted", "Nothing to warn of."));
    }
    parts.push(...section("Marks on the chart",
      key("▲", "ordered", "ordered: wants to be long"), key("▼", "ordered", "ordered: wants to be short"), key("■", "ordered", "ordered: wants to be flat"),
      key("✕", "vetoed", "vetoed by the gate agents"), key("●", "denied", "denied by the deterministic gate"), key("■", "held", "held: nothing to do"),
      key("•", "", "a fill at its price; red a stop, green a target")));
    parts.push(el("p", "muted small", "Choose a decision to see who proposed it, what every agent answered, what became of it and what it cost."));
    $("panel").replaceChildren(...parts);
  }

  function panel(decision) {
    const close = el("button", "", "Close");
    close.type = "button";
    close.addEventListener("click", () => choose(null));
    const cost = sum(decision.fills, (fill) => fill.cost), calls = decision.calls;
    const digits = digitsOf(decision.symbol || symbol);
    const gate = decision.code ? `${decision.decided_by} (${decision.code})` : decision.decided_by;
    const parts = [
      el("header", "", el("div", "", el("h2", "", `${decision.index + 1}. ${wanted(decision)} ${decision.symbol}`),
        el("div", "muted small", `${when(decision.time)} UTC, cycle ${decision.cycle}${decision.critical ? ", critical" : ""}`)), close),
      el("p", "", el("span", "tag " + decision.outcome, decision.outcome)),
      fields([["decided by", gate], ["because", decision.reason], ["proposed by", decision.proposed_by.join(", ")],
        ["price then", known(decision.price) ? digits.format(decision.price) : null]]),
    ];
    if (decision.thesis) parts.push(...section("Thesis", el("blockquote", "", decision.thesis)));
    if (decision.vetoes.length) {
      parts.push(...section("Vetoes", ...decision.vetoes.map(([agent, reason]) => el("div", "opinion veto", el("b", "", agent), el("div", "", reason)))));
    }
    parts.push(...section("What every agent answered", ...decision.opinions.map((one) => opinion(one, decision))));
    parts.push(...section("Order", ...decision.orders.map((order) => el("div", "", order.text,
      fields([["stop", order.stop], ["target", order.target], ["broker", order.status + (order.reason ? ": " + order.reason : "")], ["id", order.id]])))));
    parts.push(...section("Fills", ...decision.fills.map((fill) => el("div", "",
      `${fill.side} ${fill.quantity} at ${digitsOf(fill.symbol).format(fill.price)}`,
      el("div", "muted small", `${when(fill.time)} UTC${fill.leg === "order" ? "" : ", by the " + fill.leg}; cost ${money(fill.cost)}`)))));
    parts.push(...section("Result", ...decision.opened.map(trip)));
    parts.push(...section("Ended the position", ...decision.ended.map(trip)));
    parts.push(...section("What it cost", fields([["trading", money(cost) + " " + data.currency],
      ["language models", `${four.format(llmCost(decision))} USD, ${count(calls.length, "call")}`]]),
      ...calls.map(([agent, route, llm, outcome, billed, latency]) => el("div", "muted small",
        `${agent}: ${route}${llm && llm !== route ? " " + llm : ""}, ${outcome}, ${four.format(billed)} USD, ${latency} s`))));
    $("panel").replaceChildren(...parts);
    $("panel").scrollTop = 0;
  }

  function choose(decision) {
    chosen = decision;
    if (decision) {
      if (!here(decision)) { showSymbol(decision.symbol); if ($("symbol")) $("symbol").value = symbol; }
      const at = visible().indexOf(decision) * HIGH;
      if (at < box.scrollTop || at > box.scrollTop + box.clientHeight - 2 * HIGH) box.scrollTop = at - box.clientHeight / 2;
      panel(decision);
      reveal(decision);
    } else {
      overview();
      chart.clearCrosshairPosition();
    }
    table();
    mark();
  }

  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(SELECT|INPUT)$/.test(event.target.tagName)) return;
    const list = visible(), at = list.indexOf(chosen), inside = box.contains(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at < 0 ? list.length - 1 : at - 1 };
    if (inside) Object.assign(to, { ArrowDown: to.ArrowRight, ArrowUp: to.ArrowLeft, Home: 0, End: list.length - 1 });
    if (event.key === "Escape") choose(null);
    else if (event.key in to && list.length) {
      event.preventDefault();
      choose(list[Math.min(Math.max(to[event.key], 0), list.length - 1)]);
    }
  });

  // ---- tables and the rest --------------------------------------------------------------------------------------------
  function fill(table, head, rows) {
    const cells = (tag, values) => el("tr", "", ...values.map((value, i) => el(tag, i && i < values.left ? "number" : "", value)));
    const line = (tag, values, numbers) => cells(tag, Object.assign([...values], { left: numbers }));
    table.append(el("thead", "", line("th", head, head.numbers)), el("tbody", "", ...rows.map((values) => line("td", values, head.numbers))));
  }
  const show = (unit, value) => {
    if (!known(value)) return "n/a";
    return { "+%": percent(value), "-%": percent(-value || 0), "%": two.format(100 * value) + " %", bars: none.format(value) }[unit] || ratio(value);
  };
  const reasoned = (name, words) => {
    const cell = el("span", "", words);
    if (data.reasons[name]) cell.title = data.reasons[name];
    return cell;
  };
  fill($("figures"), Object.assign(["", "Fund", "Buy and hold"], { numbers: 3 }), [
    ...data.labels.map(([name, label, unit]) => [label.trim(), reasoned(name, show(unit, metrics[name])), show(unit, benchmark[name])]),
    ["Return net of language models", percent(metrics.net_of_llm), ""],
    ["Profit factor", reasoned("profit_factor", ratio(metrics.profit_factor)), ""],
    ["Profit of a round trip, mean", reasoned("expectancy", money(metrics.expectancy)), ""],
    ["In the market", known(metrics.exposure) ? two.format(100 * metrics.exposure) + " % of bars" : "n/a", "100.00 % of bars"],
    ["Turned over", known(metrics.turnover) ? two.format(metrics.turnover) + " times" : "n/a", ""],
  ]);
  fill($("agents"), Object.assign(["Agent", "Values", "Abstains", "Missing", "Vetoes", "Clamps", "Calls", "USD", "Answered by"], { numbers: 8 }),
    Object.entries(data.by_agent).map(([name, one]) => [name, ...[one.opinions, one.abstentions, one.unavailable, one.vetoes, one.clamps, one.calls].map(none.format),
      four.format(one.billed_usd), Object.entries(one.answered_by).map(([route, number]) => `${route} ${none.format(number)}`).join(", ") || "nobody"]));
  if (Object.keys(data.by_proposer).length) {
    $("proposed").hidden = false;
    fill($("proposers"), Object.assign(["Agent", "Ended", "Hit rate", "Profit", "Each", "Profit factor"], { numbers: 6 }),
      Object.entries(data.by_proposer).map(([name, one]) => [name, none.format(one.trades), known(one.hit_rate) ? Math.round(100 * one.hit_rate) + " %" : "n/a",
        el("span", tone(one.profit), signed(one.profit, two.format(one.profit))), money(one.expectancy), ratio(one.profit_factor)]));
  }
  $("execution").append(...data.execution.map((sentence) => el("li", "", sentence)));
  $("run").append(...Object.entries(data.run).filter(([, value]) => value).map(([name, value]) => el("div", "", el("dt", "", name), el("dd", "", value))));
  if (many) {
    const select = el("select", "", ...Object.keys(data.candles).map((name) => el("option", "", name)));
    select.id = "symbol";
    select.setAttribute("aria-label", "Instrument");
    select.addEventListener("change", () => showSymbol(select.value));
    $("symbols").append(select);
  }
  $("fit").addEventListener("click", () => chart.timeScale().fitContent());
  dark.addEventListener("change", theme);
  addEventListener("beforeprint", () => table(true));
  addEventListener("afterprint", () => table());

  showSymbol(symbol);
  theme();
  overview();
  table();
  legend(end);
  chart.timeScale().fitContent();
})();
