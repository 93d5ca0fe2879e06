import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import test from "node:test";

const web = new URL("../../../web/", import.meta.url);
const found = readdirSync(web, { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && existsSync(new URL(`${entry.name}/texts.mjs`, web)))
  .map((entry) => entry.name);

/** @param {string} text */
const holes = (text) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort();

for (const folder of found) {
  test(`${folder}: every language says the same`, async () => {
    const module = await import(new URL(`${folder}/texts.mjs`, web).href);
    const tables = module.TEXTS ?? module;
    for (const language of ["zh", "ja"]) {
      assert.deepEqual(Object.keys(tables[language]).sort(), Object.keys(tables.en).sort(), language);
      for (const [key, text] of Object.entries(tables.en)) {
        assert.deepEqual(holes(tables[language][key]), holes(text), `${language}: ${key}`);
        assert.ok(tables[language][key].trim(), `${language}: ${key} is empty`);
      }
    }
  });
}

test("there is something to compare", () => assert.ok(found.length >= 2, String(found)));
