// two_tabs.mjs URL [ROOM]: opens the gateway's page at URL in two tabs of a real browser, joins ROOM in both, sends from the
// first and expects the second to show it, and the page's count of connections to know of both.
//
// Status 0 when it held, 1 when it did not; the last line says what. Waits for conditions, each for at most PATIENCE_MS.
// Called by gateway/tests/page.rs, which owns the gateway. Needs Chromium and playwright-core: `make test` installs both.
//
// What the page must offer: inputs #room and #text, buttons #join and #send, the list #messages, the number #connections.
import { existsSync } from "node:fs";
import { createRequire } from "node:module";

const CHROMIUM = "/usr/bin/chromium";
const PATIENCE_MS = 15_000;
const ARGUMENTS = [
  "--no-sandbox", // it refuses to run as root otherwise, and the only page it sees is ours
  "--headless",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
];

function giveUp(why) {
  console.error(`two tabs: ${why}`);
  process.exit(1);
}

function browserDriver() {
  if (!existsSync(CHROMIUM)) giveUp(`no ${CHROMIUM} here; run: make test`);
  try {
    return createRequire(new URL("../../../.tools/package.json", import.meta.url))("playwright-core").chromium;
  } catch {
    return giveUp("no playwright-core in .tools; run: make test");
  }
}

async function joined(context, url, room) {
  const tab = await context.newPage();
  tab.on("pageerror", (error) => giveUp(`the page threw: ${error.message}`));
  await tab.goto(url);
  await tab.fill("#room", room);
  await tab.click("#join");
  return tab;
}

/** Clicks send until the other tab shows the text: joining is not instant, and a room forgets what nobody heard. */
async function heard(sender, listener, text) {
  const deadline = Date.now() + PATIENCE_MS;
  const shown = listener.locator("#messages").getByText(text).first();
  while (Date.now() < deadline) {
    await sender.fill("#text", text);
    await sender.click("#send");
    const seen = await shown.waitFor({ state: "visible", timeout: 1_000 }).then(() => true, () => false);
    if (seen) return;
  }
  throw new Error(`the second tab never showed "${text}"; it shows: ${await listener.innerText("#messages")}`);
}

/** Waits until the page counts at least `least` connections; the count is the first number in the element. */
async function counted(tab, least) {
  const count = ([selector, least]) => {
    const text = document.querySelector(selector)?.textContent ?? "";
    return Number(/\d+/.exec(text.replace(/[,_\u202f\u00a0]/g, ""))?.[0] ?? 0) >= least;
  };
  await tab.waitForFunction(count, ["#connections", least]).catch(async () => {
    throw new Error(`#connections reads "${await tab.innerText("#connections")}", expected at least ${least}`);
  });
}

async function main(url, room) {
  const browser = await browserDriver().launch({ executablePath: CHROMIUM, args: ARGUMENTS });
  try {
    const context = await browser.newContext();
    context.setDefaultTimeout(PATIENCE_MS);
    const first = await joined(context, url, room);
    const second = await joined(context, url, room);
    await heard(first, second, `hello from the first tab ${process.pid}`);
    await heard(second, first, `hello from the second tab ${process.pid}`);
    await counted(first, 2);
    await counted(second, 2);
  } finally {
    await browser.close();
  }
}

const [url, room = "lobby"] = process.argv.slice(2);
if (!url) giveUp("usage: two_tabs.mjs URL [ROOM]");
main(url, room).then(
  () => console.log("two tabs: each heard the other, and the page counted both"),
  (error) => giveUp(error.message.split("\n")[0]),
);
