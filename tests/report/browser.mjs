// Opens a page in headless Chromium and says, as JSON, what a reader would find. Asserts nothing: test_html_browser.py does.
// node browser.mjs CHROMIUM PAGE PART… with parts time, use, keyboard, look, glance (at one kind), widths (without axe);
// playwright-core and axe-core under $PROX24_NODE_MODULES; pictures of what is looked at go to $PROX24_SCREENSHOTS.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const modules = createRequire(join(process.env.PROX24_NODE_MODULES, "anchor.js"));
const { chromium } = modules("playwright-core");
const axe = readFileSync(modules.resolve("axe-core/axe.min.js"), "utf8");
const [executablePath, file, ...parts] = process.argv.slice(2), folder = process.env.PROX24_SCREENSHOTS;
const quiet = ["gpu", "quic", "background-networking", "component-update", "sync"].map(name => `--disable-${name}`);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--no-first-run", ...quiet] });
const found = { errors: [], requests: [], violations: {}, overflow: {} };

async function open(options) {
  const context = await browser.newContext(options), page = await context.newPage();
  page.on("console", message => found.errors.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", error => found.errors.push(String(error)));
  page.on("request", request => found.requests.push(request.url()));
  await page.goto(pathToFileURL(file).href, { waitUntil: "load" });
  return page;
}

const names = page => page.$$eval("#layers tbody tr:not([hidden]) th", cells => cells.map(cell =>
  [...cell.childNodes].filter(node => node.nodeName !== "SMALL").map(node => node.textContent).join("")));
const column = (page, at) => page.$$eval("#layers tbody tr:not([hidden])", (rows, place) => rows.map(row => row.cells[place].textContent.trim()), at);

async function look(colorScheme, width, audits = true) {
  const page = await open({ colorScheme, viewport: { width, height: 800 }, reducedMotion: "reduce" });
  const kind = `${colorScheme}-${width}`;
  await page.evaluate(() => { document.querySelector("#layer-list").style.contentVisibility = "visible"; });
  if (audits) {
    await page.evaluate(axe);
    const result = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
    found.violations[kind] = result.violations.map(({ id, impact, nodes }) => ({ id, impact, at: nodes.slice(0, 3).map(node => node.html.slice(0, 120)) }));
  }
  found.overflow[kind] = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  found.smooth = await page.evaluate(() => getComputedStyle(document.documentElement).scrollBehavior);
  if (folder) {
    await page.screenshot({ path: join(folder, `${kind}-first.png`), caret: "initial" });
    await page.screenshot({ path: join(folder, `${kind}.png`), caret: "initial", fullPage: true });
  }
  await page.context().close();
}

async function use() {
  const page = await open({ viewport: { width: 1280, height: 800 } });
  found.firstScreen = await page.$$eval(".answers > section", parts => parts.map(part => part.getBoundingClientRect().bottom));
  found.background = [];
  for (let press = 0; press < 3; press++) {
    found.background.push(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
    await page.click("#theme");
  }
  found.order = await names(page);
  const heads = await page.$$eval("#layers thead th", cells => cells.map(cell => cell.textContent.trim()));
  const error = heads.indexOf("Error");
  found.sorted = {};
  for (const direction of ["ascending", "descending"]) {
    await page.click(`#layers thead th:nth-child(${error + 1}) button`);
    found.sorted[direction] = { aria: await page.$$eval("#layers thead th[aria-sort]", cells => cells.map(cell => [cell.textContent.trim(), cell.ariaSort])), values: await column(page, error) };
  }
  await page.click("#layers thead th:nth-child(2) button");
  found.sorted.names = await names(page);
  await page.click("#layers thead th:nth-child(1) button");
  found.sorted.network = await names(page);
  await page.fill("#filter", "Q_PROJ sparse");
  found.filtered = { names: await names(page), shown: await page.textContent("#shown") };
  await page.fill("#filter", "");
  found.states = {};
  for (const state of await page.$$eval("#state option", options => options.map(option => option.value))) {
    await page.selectOption("#state", state);
    found.states[state] = await page.textContent("#shown");
  }
  await page.selectOption("#state", "");
  if (await page.$("#layer")) {
    const options = await page.$$eval("#layer option", list => list.map(option => option.textContent));
    found.masks = { options };
    for (const place of [0, options.length - 1]) {
      await page.selectOption("#layer", String(place));
      found.masks[place ? "last" : "first"] = { words: await page.textContent("#mask-words"), label: await page.getAttribute("#mask", "aria-label"), path: await page.getAttribute("#mask path", "d") };
    }
  }
  await page.context().close();
}

async function keyboard() {
  const page = await open({ viewport: { width: 1280, height: 800 } });
  const wanted = await page.$$eval("a, button, input, select, [tabindex]", list => list.filter(item => item.checkVisibility()).length);
  const reached = new Set(), outlines = [];
  for (let press = 0; press < wanted + 20; press++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const item = document.activeElement, every = [...document.querySelectorAll("a, button, input, select, [tabindex]")];
      return [every.indexOf(item), getComputedStyle(item).outlineStyle];
    });
    if (at[0] >= 0 && !reached.has(at[0])) { reached.add(at[0]); outlines.push(at[1]); }
  }
  await page.focus("#layers thead th:nth-child(2) button");
  await page.keyboard.press("Enter");
  const sorted = await page.getAttribute("#layers thead th:nth-child(2)", "aria-sort");
  await page.focus("#theme");
  await page.keyboard.press("Space");
  found.keyboard = { wanted, reached: reached.size, outlines, sorted, theme: await page.getAttribute("html", "data-theme") };
  await page.context().close();
}

async function time() {
  const page = await open({ viewport: { width: 1280, height: 800 } });
  found.seconds = await page.evaluate(async () => {
    const [entry] = performance.getEntriesByType("navigation");
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    return { load: entry.loadEventEnd / 1000, painted: performance.getEntriesByName("first-contentful-paint")[0]?.startTime / 1000 };
  });
  await page.evaluate(async () => {
    document.querySelector("#layer-list").scrollIntoView();
    await new Promise(done => setTimeout(done, 300));
  });
  found.seconds.filter = await page.evaluate(() => {
    const filter = document.querySelector("#filter"), start = performance.now();
    filter.value = "fc1"; filter.dispatchEvent(new Event("input")); document.body.getBoundingClientRect();
    return (performance.now() - start) / 1000;
  });
  found.seconds.sort = await page.evaluate(() => {
    const start = performance.now();
    document.querySelectorAll("#layers thead button")[1].click(); document.body.getBoundingClientRect();
    return (performance.now() - start) / 1000;
  });
  await page.context().close();
}

async function lookAtAll(audits) {
  for (const scheme of ["light", "dark"]) for (const width of [1280, 390]) await look(scheme, width, audits);
}

const looks = { look: () => lookAtAll(true), widths: () => lookAtAll(false), glance: () => look("light", 1280) };
for (const part of parts) await { time, use, keyboard, ...looks }[part]();
await browser.close();
console.log(JSON.stringify(found));
