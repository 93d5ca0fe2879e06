/** What the browser says of files: their paths as arguments, JSON on stdout. */
import { openAsBlob } from "node:fs";
import { recognise } from "../../../web/adapter/recognise.mjs";
import { readHeader } from "../../../web/adapter/safetensors.mjs";

const told = [];
for (const path of process.argv.slice(2)) told.push(recognise(await readHeader(await openAsBlob(path))));
console.log(JSON.stringify(told));
