// Opens the page about the API in a browser, as a person would, and writes what is to be seen there as JSON.
//
// node look.mjs URL FOLDER    FOLDER gets the screenshots.
import chromium from "@sparticuz/chromium";
import { chromium as driver } from "playwright-core";

const [url, folder] = process.argv.slice(2);
const VERB = /\/(GET|PUT|POST|DELETE|PATCH)\/(api\/)?v1\//;
const PATIENCE_MS = 30_000;
const complaints = [];
const requests = [];

const browser = await driver.launch({
  executablePath: await chromium.executablePath(),
  // The program has no sandbox of its own, and one process needs the fewest rights.
  args: ["--headless=shell", "--no-sandbox", "--no-zygote", "--single-process", "--disable-gpu"],
});
const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
page.setDefaultTimeout(PATIENCE_MS);
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) complaints.push(`${message.type()}: ${message.text()}`);
});
page.on("pageerror", (error) => complaints.push(`exception: ${error}`));
page.on("request", (request) => requests.push(request.url()));
page.on("requestfailed", (request) => complaints.push(`failed: ${request.url()}`));

await page.goto(url, { waitUntil: "load" });
const tags = page.locator('aside li[data-sidebar-id*="/tag/"]');
await tags.first().waitFor();
await page.screenshot({ path: `${folder}/top.png` });
for (const tag of await tags.elementHandles()) {
  await (await tag.$("button")).click();
}
const listed = await page.$$eval("aside [data-sidebar-id]", (items) => items.map((item) => item.dataset.sidebarId));
const operations = listed.filter((id) => VERB.test(id));

const sections = new Set(await page.$$eval("[id*='/v1/']", (found) => found.map((section) => section.id)));
const missing = operations.filter((id) => !sections.has(id));

// What an operation says is rendered when it comes into view, which takes a while: look at every tenth.
const empty = [];
for (const id of operations.filter((_, index) => index % 10 === 0)) {
  const rendered = await page.evaluate(
    async ([id, patienceMs]) => {
      const giveUp = Date.now() + patienceMs;
      const section = () => document.getElementById(id);
      section()?.scrollIntoView();
      while (!section()?.textContent.includes("Who may call:")) {
        if (Date.now() > giveUp) return false;
        await new Promise((resolve) => setTimeout(resolve, 50));
        section()?.scrollIntoView();
      }
      return true;
    },
    [id, PATIENCE_MS],
  );
  if (!rendered && empty.push(id) > 1) break;
}
const authorize = operations.find((id) => id.endsWith("/POST/v1/authorizations"));
await page.evaluate((id) => document.getElementById(id).scrollIntoView(), authorize);
await page.waitForTimeout(300);
await page.screenshot({ path: `${folder}/authorize.png` });
await browser.close();

const shown = operations.map((id) => id.slice(id.search(VERB) + 1).replace("/", " /"));
console.log(JSON.stringify({ shown, missing, empty, complaints, requests }));
